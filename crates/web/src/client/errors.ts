// One error type. Its code says what happened and whether the client continues.
import type { ErrorCode as ServerCode } from "../protocol.gen.js";

/** Codes of errors that the client detects; the server's are in the wire contract. */
type LocalErrorCode =
  | "CONNECTION_FAILED" // could not connect, or the connection broke; retried
  | "MAX_RETRIES_EXCEEDED" // gave up; resumes when online or visible, or by reconnect()
  | "OFFLINE" // the browser reports no network; resumes when it returns
  | "MIXED_CONTENT" // ws:// from an https:// page, which browsers block
  | "AWS_APP_RUNNER_ERROR" // a *.awsapprunner.com WebSocket URL
  | "CONNECTION_TIMEOUT" // no handshake within 20 s, or close 1008
  | "WEBSOCKET_CREATION_FAILED" // not a valid WebSocket URL
  | "MISSING_AUTH" // no token
  | "ORIGIN_NOT_ALLOWED" // the page's origin is not in ALLOWED_ORIGINS
  | "HANDSHAKE_REFUSED" // although the backend knows the session; usually the URL lacks its stage; retried
  | "INPUT_QUEUE_FULL" // input() took nothing
  | "SERVER_ERROR" // close 4500 and above
  | "CLOSED"; // close() was called

export type TerminalErrorCode = LocalErrorCode | ServerCode;

export class TerminalError extends Error {
  override name = "TerminalError";
  constructor(
    readonly code: TerminalErrorCode,
    message: string,
    /** Whether the client, or the same request, may still succeed. */
    readonly retryable: boolean,
    /** The WebSocket close code that caused the error, if one did. */
    readonly closeCode?: number,
  ) {
    super(message);
  }
}

/**
 * Maps a close code to an error. `undefined`: a routine close, to reconnect from without an error.
 *
 * | code | sent by | action |
 * |---|---|---|
 * | 1000 | `DeleteConnection` at API Gateway, or a server that closes normally | reconnect |
 * | 1001 | API Gateway after 2 h or 10 idle minutes; a server that shuts down | reconnect |
 * | 1006 | the browser: the connection broke, or the handshake was refused | diagnose, reconnect |
 * | 1008 | timeout (transports with their own close codes) | reconnect |
 * | 1009 | API Gateway: frame over its size limit | reconnect |
 * | 4000 | the server: the session no longer exists | stop |
 * | 4500… | the server failed | reconnect |
 * | other | – | reconnect |
 */
export function closeError(code: number, reason: string): TerminalError | undefined {
  if (code === 1000 || code === 1001 || code === 1005) return undefined;
  const name =
    code === 1008
      ? "CONNECTION_TIMEOUT"
      : code === 1009
        ? "TOO_LARGE"
        : code === 4000
          ? "SESSION_INVALID"
          : code >= 4500
            ? "SERVER_ERROR"
            : "CONNECTION_FAILED";
  return new TerminalError(name, `The connection closed with ${code} ${reason}`.trim(), code !== 4000, code);
}
