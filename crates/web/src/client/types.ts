// What a TerminalClient is made with, what it says, and when.
import type { Exit, NoticeCode, ServerFrame } from "../protocol.gen.js";
import type { TerminalError } from "./errors.js";

export type State =
  | "idle" // before connect()
  | "connecting"
  | "connected" // attached
  | "reconnecting" // `retryAt` says when
  | "offline" // waits for the network
  | "failed" // `error` says why; reconnect() tries again
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
  /** May be left out when the token names it. */
  sessionId?: string;
  cols?: number;
  rows?: number;
  /** `GET` here tells why a handshake was refused; `…/api/diagnostics/websocket`. */
  diagnosticsUrl?: string;
  /** Gives a new token when the old one has ended, or is about to. */
  refreshToken?: () => Promise<string>;
  /** In the address (default), or as a subprotocol, which keeps it out of access logs. */
  tokenIn?: "query" | "protocol";
  /** Attempts before MAX_RETRIES_EXCEEDED; default 10. */
  maxRetries?: number;
  /** False: only `command` and the like; no terminal output comes, and no size is said. */
  attach?: boolean;
  /** For tests and other runtimes. */
  WebSocket?: typeof WebSocket;
  fetch?: typeof fetch;
  random?: () => number;
}

export interface ClientEvents {
  status: Status;
  /** Every frame, as it came. */
  frame: ServerFrame;
  /** Terminal bytes in order, nothing twice. */
  output: Uint8Array;
  /** The size in force: the smallest of all writers' terminals. */
  size: { cols: number; rows: number };
  /** So many bytes of output were gone; a picture of the screen took their place. */
  gap: number;
  /** A new shell runs; so many bytes of input, meant for the old one, were dropped. */
  restart: number;
  exit: Exit;
  notice: { code: NoticeCode; message: string };
  error: TerminalError;
  /** Milliseconds. */
  roundTrip: number;
  token: string;
}
