// React hooks: one client per session. Importing and server rendering use no browser API; StrictMode's double mount
// opens one connection; callbacks may change on every render.
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
  /** `wss://HOST/STAGE`. The hook connects once it has a URL and a token, or a URL and `refreshToken`. */
  url: string | undefined;
  token: string | undefined;
  /** Optional if the token names the session. */
  sessionId?: string | undefined;
  refreshToken?: ClientOptions["refreshToken"];
  /** Called with every frame from the server. */
  onMessage?: (frame: ServerFrame) => void;
  onConnect?: () => void;
  /** Called when the connection is lost, whether temporarily (`reconnecting`, `offline`) or for good. */
  onDisconnect?: (status: Status) => void;
  onError?: (error: TerminalError) => void;
}

export interface TerminalHook {
  isConnected: boolean;
  isConnecting: boolean;
  state: State;
  /**
   * The error that stopped the client or delays it; null if there is none. While connected, the last retryable error,
   * until the backend answers a frame.
   */
  error: TerminalError | null;
  /** Snapshot at this render; `client.diagnostics` is always current. */
  diagnostics: Diagnostics | null;
  executeCommand(command: string, options?: CommandOptions): Promise<CommandResult>;
  resizeTerminal(cols: number, rows: number): void;
  /** Returns false if the client took nothing. */
  sendInput(data: string | Uint8Array): boolean;
  reconnect(): void;
  disconnect(): void;
  /** For `attachTerminal(client, terminal)`; null until mounted. */
  client: TerminalClient | null;
}

const IDLE: Status = { state: "idle", readOnly: false };
const subscribeToNothing = () => () => {};

/** Connects to a session behind Amazon API Gateway. */
export function useTerminalApiGateway(options: UseTerminalOptions): TerminalHook {
  const { url, token, sessionId, tokenIn, maxRetries, attach, diagnosticsUrl } = options;
  const latest = useRef(options);
  useEffect(() => {
    latest.current = options;
  });
  const [client, setClient] = useState<TerminalClient | null>(null);
  const tokenRef = useRef(token);

  const ready = Boolean(url && (token || latest.current.refreshToken));
  // `token` is not a dependency: a new token for the same session applies to the next connection.
  useEffect(() => {
    if (!ready || !url) return;
    const created = new TerminalClient({
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
    created.on("frame", (frame) => latest.current.onMessage?.(frame));
    created.on("error", (error) => latest.current.onError?.(error));
    created.on("status", (status) => {
      const isConnected = status.state === "connected";
      if (isConnected === connected) return;
      connected = isConnected;
      if (isConnected) latest.current.onConnect?.();
      else latest.current.onDisconnect?.(status);
    });
    setClient(created);
    // Deferred, so that StrictMode's first mount is over and effects can attach a terminal before output arrives.
    const timer = setTimeout(() => created.connect());
    return () => {
      clearTimeout(timer);
      created.close();
      setClient(null);
    };
  }, [ready, url, sessionId, tokenIn, maxRetries, attach, diagnosticsUrl]);

  useEffect(() => {
    tokenRef.current = token;
    if (client && token && token !== client.token) client.setToken(token);
  }, [client, token]);

  const subscribe = useMemo(
    () => (client ? (changed: () => void) => client.on("status", changed) : subscribeToNothing),
    [client],
  );
  const status = useSyncExternalStore(
    subscribe,
    () => client?.status ?? IDLE,
    () => IDLE,
  );

  const executeCommand = useCallback(
    (command: string, commandOptions?: CommandOptions) =>
      client
        ? client.command(command, commandOptions)
        : Promise.reject(new TerminalError("CLOSED", "There is no client yet.", false)),
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

/** Like `useTerminalApiGateway`, for a complete URL: `wss://HOST/STAGE?sessionId=…&token=…`. */
export function useTerminal(
  address: string | undefined,
  options: Omit<UseTerminalOptions, "url" | "token" | "sessionId"> = {},
): TerminalHook {
  const parts = useMemo(() => parseAddress(address), [address]);
  return useTerminalApiGateway({ ...options, ...parts });
}

function parseAddress(address: string | undefined): Pick<UseTerminalOptions, "url" | "token" | "sessionId"> {
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
