// Options, status and events of a TerminalClient.
import type { Exit, NoticeCode, ServerFrame } from "../protocol.gen.js";
import type { TerminalError } from "./errors.js";

export type State =
  | "idle" // before connect()
  | "connecting"
  | "connected" // attached
  | "reconnecting" // `retryAt` is the time of the next attempt
  | "offline" // waiting for the network
  | "failed" // `error` is the reason; reconnect() tries again
  | "ended" // the shell exited
  | "closed"; // close() was called

export interface Status {
  readonly state: State;
  /** Unix milliseconds of the next attempt. */
  readonly retryAt?: number;
  readonly error?: TerminalError;
  readonly readOnly: boolean;
}

export interface ClientOptions {
  /** `wss://HOST/STAGE`. */
  url: string;
  token: string | undefined;
  /** Optional if the token names the session. */
  sessionId?: string;
  /** Initial terminal size; default 80×24. */
  cols?: number;
  rows?: number;
  /** Endpoint that explains refused handshakes: `…/api/diagnostics/websocket`. Fetched with `GET`. */
  diagnosticsUrl?: string;
  /** Returns a new token. Called shortly before the current one expires, and when the server rejects it as expired. */
  refreshToken?: () => Promise<string>;
  /** Where the token travels: in the URL (default), or as a subprotocol, which keeps it out of access logs. */
  tokenIn?: "query" | "protocol";
  /** Attempts before MAX_RETRIES_EXCEEDED; default 10. */
  maxRetries?: number;
  /** False: no terminal, only `command` and similar frames. Default true. */
  attach?: boolean;
  /** Replacements for the globals, for tests and other runtimes. */
  WebSocket?: typeof WebSocket;
  fetch?: typeof fetch;
  random?: () => number;
}

export interface ClientEvents {
  status: Status;
  /** Every frame as received. */
  frame: ServerFrame;
  /** Terminal output: in order, each byte once. */
  output: Uint8Array;
  /** The size in force: the smallest of all writers' terminals. */
  size: { cols: number; rows: number };
  /** Bytes of output that the server no longer had; a snapshot of the screen replaced them. */
  gap: number;
  /** A new shell started. The value counts the bytes of unacknowledged input for the old shell, now discarded. */
  restart: number;
  exit: Exit;
  notice: { code: NoticeCode; message: string };
  error: TerminalError;
  /** Milliseconds. */
  roundTrip: number;
  token: string;
}
