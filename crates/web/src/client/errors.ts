// Everything that can go wrong, as one error type with a code that says what to do.
import type { ErrorCode as ServerCode } from "../protocol.gen.js";

/** What the client itself finds; the rest are the server's codes. */
export type ClientCode =
  | "CONNECTION_FAILED" // could not connect, or the connection broke; tried again
  | "MAX_RETRIES_EXCEEDED" // gave up; starts anew when online, when visible, or by reconnect()
  | "OFFLINE" // the browser says there is no network; goes on when it is back
  | "MIXED_CONTENT" // ws:// from an https:// page, which browsers refuse
  | "AWS_APP_RUNNER_ERROR" // a *.awsapprunner.com WebSocket URL
  | "CONNECTION_TIMEOUT" // no handshake within 20 s, no pong, or close 1008
  | "WEBSOCKET_CREATION_FAILED" // the URL is none that a WebSocket can have
  | "MISSING_AUTH" // no token
  | "ORIGIN_NOT_ALLOWED" // the page's origin is not in ALLOWED_ORIGINS
  | "HANDSHAKE_REFUSED" // though the backend knows the session; most often the address lacks its stage; tried again
  | "INPUT_QUEUE_FULL" // input() was refused
  | "SERVER_ERROR" // close 4500 and above
  | "CLOSED"; // close() was called

export type TerminalErrorCode = ClientCode | ServerCode;

export class TerminalError extends Error {
  override name = "TerminalError";
  constructor(
    readonly code: TerminalErrorCode,
    message: string,
    /** Whether the client, or the same request, may still succeed. */
    readonly retryable: boolean,
    /** The WebSocket close code, if one was the cause. */
    readonly closeCode?: number,
  ) {
    super(message);
  }
}

/**
 * What a close code means here. `undefined`: an ordinary end, reconnect and say nothing.
 *
 * | code | from | then |
 * |---|---|---|
 * | 1000 | `DeleteConnection` at API Gateway, or a polite server | reconnect |
 * | 1001 | API Gateway after 2 h, or 10 idle minutes; a server going away | reconnect |
 * | 1006 | the line broke, or the handshake was refused | diagnose, reconnect |
 * | 1008 | timeout (transports with close codes of their own) | reconnect |
 * | 1009 | a frame over the gateway's limit | reconnect |
 * | 4000 | the session is gone | stop |
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
  return new TerminalError(name, `The connection ended with ${code} ${reason}`.trim(), code !== 4000, code);
}
