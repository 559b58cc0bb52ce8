// One client for one session, as a React hook. Nothing of the browser is touched at import or while rendering on a
// server; StrictMode's mount, unmount, mount leaves one connection; callbacks may change at every render.
import { useCallback, useEffect, useMemo, useRef, useState, useSyncExternalStore } from "react";
import {
  type ClientOptions,
  type CommandOptions,
  type CommandResult,
  type Diagnostics,
  type ServerFrame,
  type State,
  type Status,
  TerminalClient,
  TerminalError,
} from "../client/index.js";

export interface UseTerminalOptions
  extends Pick<ClientOptions, "diagnosticsUrl" | "tokenIn" | "maxRetries" | "attach" | "WebSocket" | "fetch"> {
  /** `wss://HOST/STAGE`. Without it, and without a token, nothing is connected. */
  url: string | undefined;
  token: string | undefined;
  /** May be left out when the token names it. */
  sessionId?: string | undefined;
  refreshToken?: ClientOptions["refreshToken"];
  /** Every frame of the server. */
  onMessage?: (frame: ServerFrame) => void;
  onConnect?: () => void;
  /** Connected no more: for now (`reconnecting`, `offline`) or for good. */
  onDisconnect?: (status: Status) => void;
  onError?: (error: TerminalError) => void;
}

export interface TerminalHook {
  isConnected: boolean;
  isConnecting: boolean;
  state: State;
  /** What stopped it, or holds it up. Once connected: what may pass, until the backend answers something; else null. */
  error: TerminalError | null;
  /** As of this render; `client.diagnostics` is of now. */
  diagnostics: Diagnostics | null;
  executeCommand(command: string, options?: CommandOptions): Promise<CommandResult>;
  resizeTerminal(cols: number, rows: number): void;
  /** False if it was not taken. */
  sendInput(data: string | Uint8Array): boolean;
  reconnect(): void;
  disconnect(): void;
  /** For `attachTerminal(client, terminal)`; null until mounted. */
  client: TerminalClient | null;
}

const IDLE: Status = { state: "idle", readOnly: false };
const nothing = () => () => {};

/** A terminal behind Amazon API Gateway, by session and token. */
export function useTerminalApiGateway(options: UseTerminalOptions): TerminalHook {
  const { url, token, sessionId, tokenIn, maxRetries, attach, diagnosticsUrl } = options;
  const latest = useRef(options);
  useEffect(() => {
    latest.current = options;
  });
  const [client, setClient] = useState<TerminalClient | null>(null);
  const tokenRef = useRef(token);

  const ready = Boolean(url && (token || latest.current.refreshToken));
  // The token is not among the dependencies: a new one of the same session is for the next connection.
  useEffect(() => {
    if (!ready || !url) return;
    const made = new TerminalClient({
      url,
      token: tokenRef.current,
      sessionId,
      tokenIn,
      maxRetries,
      attach,
      diagnosticsUrl,
      WebSocket: latest.current.WebSocket,
      fetch: latest.current.fetch,
      refreshToken: latest.current.refreshToken && (() => (latest.current.refreshToken as () => Promise<string>)()),
    });
    let connected = false;
    made.on("frame", (frame) => latest.current.onMessage?.(frame));
    made.on("error", (error) => latest.current.onError?.(error));
    made.on("status", (status) => {
      const now = status.state === "connected";
      if (now === connected) return;
      connected = now;
      if (now) latest.current.onConnect?.();
      else latest.current.onDisconnect?.(status);
    });
    setClient(made);
    // After this tick: StrictMode's first mount is over by then, and a terminal can be attached before.
    const timer = setTimeout(() => made.connect());
    return () => {
      clearTimeout(timer);
      made.close();
      setClient(null);
    };
  }, [ready, url, sessionId, tokenIn, maxRetries, attach, diagnosticsUrl]);

  useEffect(() => {
    tokenRef.current = token;
    if (client && token && token !== client.token) client.setToken(token);
  }, [client, token]);

  const subscribe = useMemo(() => (client ? (changed: () => void) => client.on("status", changed) : nothing), [client]);
  const status = useSyncExternalStore(
    subscribe,
    () => client?.status ?? IDLE,
    () => IDLE,
  );

  const executeCommand = useCallback(
    (command: string, commandOptions?: CommandOptions) =>
      client
        ? client.command(command, commandOptions)
        : Promise.reject(new TerminalError("CLOSED", "There is no terminal.", false)),
    [client],
  );
  const resizeTerminal = useCallback((cols: number, rows: number) => client?.resize(cols, rows), [client]);
  const sendInput = useCallback((data: string | Uint8Array) => client?.input(data) ?? false, [client]);
  const reconnect = useCallback(() => {
    if (client?.status.state === "closed") client.connect();
    else client?.reconnect();
  }, [client]);
  const disconnect = useCallback(() => client?.close(), [client]);

  const { state } = status;
  return {
    isConnected: state === "connected",
    isConnecting: state === "connecting" || state === "reconnecting",
    state,
    error: status.error ?? (state === "connected" ? null : (client?.diagnostics.lastError ?? null)),
    diagnostics: client?.diagnostics ?? null,
    executeCommand,
    resizeTerminal,
    sendInput,
    reconnect,
    disconnect,
    client,
  };
}

/** The same for a whole address, `wss://HOST/STAGE?sessionId=…&token=…`. */
export function useTerminal(
  address: string | undefined,
  options: Omit<UseTerminalOptions, "url" | "token" | "sessionId"> = {},
): TerminalHook {
  const parts = useMemo(() => split(address), [address]);
  return useTerminalApiGateway({ ...options, ...parts });
}

function split(address: string | undefined): Pick<UseTerminalOptions, "url" | "token" | "sessionId"> {
  if (!address) return { url: undefined, token: undefined };
  const at = address.indexOf("?");
  if (at < 0) return { url: address, token: undefined };
  const query = new URLSearchParams(address.slice(at + 1));
  const token = query.get("token") ?? undefined;
  const sessionId = query.get("sessionId") ?? undefined;
  query.delete("token");
  query.delete("sessionId");
  const rest = query.toString();
  return { url: address.slice(0, at) + (rest && `?${rest}`), token, sessionId };
}
