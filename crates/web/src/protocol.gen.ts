// Generated from crates/protocol by `make types`. Do not edit: `make test` fails when it differs.

/**
 * Code of an `error` frame. [`ErrorCode::retryable`] says whether a retry may help.
 */
export type ErrorCode = "BAD_FRAME" | "TOO_LARGE" | "RATE_LIMITED" | "TOKEN_EXPIRED" | "MISSING_AUTH" | "UNAUTHORIZED" | "ORIGIN_NOT_ALLOWED" | "FORBIDDEN" | "SESSION_INVALID" | "SESSION_EXPIRED" | "NOT_ATTACHED" | "READ_ONLY" | "REPLACED" | "INPUT_GAP" | "COMMAND_TIMEOUT" | "COMMAND_FAILED" | "BACKEND_UNAVAILABLE" | "BACKEND_TIMEOUT" | "INTERNAL";

/**
 * Code of a `notice`.
 */
export type NoticeCode = "DRAINING" | "SESSION_EXPIRING" | "SHELL_RESTARTED";

/**
 * A connection: API Gateway's `connectionId`, or the id that another transport gives.
 */
export type ConnectionId = string;

/**
 * A session: `sessionId`.
 */
export type SessionId = string;

/**
 * A client over all of its connections, and so an input stream: `clientId`, 16–64 of `[A-Za-z0-9_-]`.
 */
export type ClientId = string;

/**
 * Identifies one shell of a session; offsets belong to an epoch. Below 2^53; a newer shell's epoch is higher.
 */
export type Epoch = number;

/**
 * Unix time in milliseconds; below 2^53 on the wire.
 */
export type UnixMs = number;

/**
 * Bytes in a frame: exactly one of the two fields.
 */
export type Payload = { 
/**
 * The bytes, if they are valid UTF-8.
 */
data?: string, 
/**
 * Otherwise the bytes in standard base64 with padding (RFC 4648, section 4).
 */
b64?: string, };

/**
 * How a shell ended.
 */
export type Exit = { 
/**
 * Like a shell's `$?`: 128 + signal if killed.
 */
exitCode: number, 
/**
 * The signal that ended it, such as `SIGKILL`.
 */
signal?: string, };

/**
 * A command that `command` ran.
 */
export type HistoryEntry = { 
/**
 * The command as sent.
 */
command: string, 
/**
 * Like a shell's `$?`.
 */
exitCode: number, 
/**
 * When it ended.
 */
timestamp: UnixMs, };

/**
 * An `error` frame without its `type`.
 */
export type ErrorFrame = { 
/**
 * The error.
 */
code: ErrorCode, 
/**
 * For humans. Contains no secret and no other program's text.
 */
message: string, 
/**
 * Whether the same request may succeed later.
 */
retryable: boolean, 
/**
 * The frame that caused it: its `id`, else its `type`.
 */
ref?: string, 
/**
 * The next input byte expected (`INPUT_GAP`).
 */
inputOffset?: number, };

/**
 * A frame from a client.
 */
export type ClientFrame = { "type": "ping", 
/**
 * Any number; `pong` returns it as `echo`.
 */
timestamp?: number, 
/**
 * Acknowledges all output before this offset.
 */
outputOffset?: number, } | { "type": "command", 
/**
 * Passed to the shell's `-c`.
 */
command: string, 
/**
 * A repetition with the same id receives the first run's result.
 */
id?: string, 
/**
 * Time limit in milliseconds: 25,000 by default, at most 600,000.
 */
timeoutMs?: number, } | { "type": "resize", 
/**
 * Columns, at least 1.
 */
cols: number, 
/**
 * Rows, at least 1.
 */
rows: number, 
/**
 * Counter per connection. A frame whose `seq` is not above the last one has no effect.
 */
seq?: number, } | { "type": "history" } | { "type": "clear" } | { "type": "echo" } | { "type": "attach", 
/**
 * The client's input stream: 16–64 of `[A-Za-z0-9_-]`.
 */
clientId: ClientId, 
/**
 * Columns, at least 1.
 */
cols: number, 
/**
 * Rows, at least 1.
 */
rows: number, 
/**
 * First output byte still needed; 0 by default.
 */
outputOffset?: number, 
/**
 * The shell that the offset belongs to.
 */
epoch?: Epoch, 
/**
 * See [`ClientFrame::Resize`].
 */
seq?: number, } | { "type": "input", 
/**
 * The client's input stream.
 */
clientId: ClientId, 
/**
 * Offset of the first byte.
 */
offset: number, 
/**
 * The shell that the bytes are for.
 */
epoch?: Epoch, 
/**
 * Acknowledges all output before this offset.
 */
outputOffset?: number, 
/**
 * The bytes, if they are valid UTF-8.
 */
data?: string, 
/**
 * Otherwise the bytes in standard base64 with padding (RFC 4648, section 4).
 */
b64?: string, } | { "type": "ack", 
/**
 * All output before this offset has arrived.
 */
outputOffset: number, 
/**
 * The shell that the offset belongs to.
 */
epoch?: Epoch, } | { "type": "detach", 
/**
 * See [`ClientFrame::Resize`].
 */
seq?: number, };

/**
 * A frame to a client, from the backend or, on its behalf, the Lambda.
 */
export type ServerFrame = { "type": "connected", 
/**
 * For humans.
 */
message: string, 
/**
 * The session that the token opened.
 */
sessionId: SessionId, 
/**
 * API Gateway's id of this connection.
 */
connectionId: ConnectionId, 
/**
 * When it was sent.
 */
timestamp: UnixMs, 
/**
 * Version of the protocol.
 */
protocol: number, 
/**
 * Whether this connection is view-only.
 */
readOnly: boolean, } | { "type": "pong", 
/**
 * When it was sent.
 */
timestamp: UnixMs, 
/**
 * The ping's own timestamp.
 */
echo?: number, } | { "type": "command_result", 
/**
 * stdout and stderr in the order written, with invalid UTF-8 replaced.
 */
result: string, 
/**
 * Like a shell's `$?`: 128 + signal if killed.
 */
exitCode: number, 
/**
 * When it was sent.
 */
timestamp: UnixMs, 
/**
 * The command's id.
 */
id: string, 
/**
 * Run time in milliseconds.
 */
durationMs: number, 
/**
 * The signal that ended it, such as `SIGKILL`.
 */
signal?: string, 
/**
 * Whether `result` is incomplete.
 */
truncated?: boolean, } | { "type": "resize_ack", 
/**
 * Columns.
 */
cols: number, 
/**
 * Rows.
 */
rows: number, 
/**
 * When it was sent.
 */
timestamp: UnixMs, } | { "type": "history", 
/**
 * The newest 100 commands, oldest first.
 */
history: Array<HistoryEntry>, 
/**
 * When it was sent.
 */
timestamp: UnixMs, } | { "type": "clear_ack", 
/**
 * When it was sent.
 */
timestamp: UnixMs, } | { "type": "echo", 
/**
 * The frame as sent.
 */
received: unknown, 
/**
 * When it was sent.
 */
timestamp: UnixMs, } | { "type": "unknown_command", 
/**
 * The type, if the frame had one.
 */
received?: string, 
/**
 * For humans.
 */
message: string, 
/**
 * When it was sent.
 */
timestamp: UnixMs, } | { "type": "attached", 
/**
 * The current shell.
 */
epoch: Epoch, 
/**
 * Offset at which output continues.
 */
outputOffset: number, 
/**
 * The next input byte expected from this client.
 */
inputOffset: number, 
/**
 * Columns in force.
 */
cols: number, 
/**
 * Rows in force.
 */
rows: number, 
/**
 * Whether this connection is view-only.
 */
readOnly: boolean, 
/**
 * Number of evicted output bytes that the client needed; a `snapshot` follows.
 */
gap?: number, 
/**
 * Present if the shell has ended.
 */
exit?: Exit, } | { "type": "output", 
/**
 * The shell.
 */
epoch: Epoch, 
/**
 * Offset of the first byte.
 */
offset: number, 
/**
 * Acknowledges all input before this offset.
 */
inputOffset?: number, 
/**
 * The bytes, if they are valid UTF-8.
 */
data?: string, 
/**
 * Otherwise the bytes in standard base64 with padding (RFC 4648, section 4).
 */
b64?: string, } | { "type": "snapshot", 
/**
 * The shell.
 */
epoch: Epoch, 
/**
 * Offset at which output continues; also identifies the snapshot.
 */
offset: number, 
/**
 * Index of this part, from 0.
 */
part: number, 
/**
 * Number of parts.
 */
parts: number, 
/**
 * Columns of the screen.
 */
cols: number, 
/**
 * Rows of the screen.
 */
rows: number, 
/**
 * Number of output bytes that the snapshot replaces.
 */
gap: number, 
/**
 * The bytes, if they are valid UTF-8.
 */
data?: string, 
/**
 * Otherwise the bytes in standard base64 with padding (RFC 4648, section 4).
 */
b64?: string, } | { "type": "input_ack", 
/**
 * The shell.
 */
epoch: Epoch, 
/**
 * The client's input stream.
 */
clientId: ClientId, 
/**
 * All input before this offset has been written to the shell.
 */
inputOffset: number, } | { "type": "exit", 
/**
 * The shell.
 */
epoch: Epoch, 
/**
 * End of its output; the client first waits for all output before it.
 */
offset: number, 
/**
 * Like a shell's `$?`: 128 + signal if killed.
 */
exitCode: number, 
/**
 * The signal that ended it, such as `SIGKILL`.
 */
signal?: string, } | { "type": "detached" } | { "type": "notice", 
/**
 * The event.
 */
code: NoticeCode, 
/**
 * For humans.
 */
message: string, } | { "type": "error" } & ErrorFrame;

/** Version of the protocol. */
export const PROTOCOL_VERSION = 1;
/** WebSocket subprotocol. */
export const SUBPROTOCOL = "shellbridge.v1";
/** Largest client frame, bytes of JSON. */
export const MAX_FRAME = 32768;
/** Input bytes accepted beyond `inputOffset`. */
export const INPUT_WINDOW = 65536;
/** First wait before input is resent. */
export const INPUT_RETRY_MS = 500;
/** Output bytes sent past an acknowledgement. */
export const OUTPUT_WINDOW = 262144;
/** Unacknowledged output bytes that cause an acknowledgement. */
export const OUTPUT_ACK_EVERY = 32768;
/** Longest delay of an acknowledgement. */
export const OUTPUT_ACK_WITHIN_MS = 200;
/** Interval of pings. */
export const PING_EVERY_MS = 30000;
/** Interval of pings on a quiet connection. */
export const PING_EVERY_QUIET_MS = 60000;
/** A connection is quiet after this long without other frames. */
export const PING_QUIET_AFTER_MS = 300000;
/** How long the shell waits for a lost client. */
export const RESUME_GRACE_MS = 60000;
/** Default `timeoutMs`. */
export const COMMAND_TIMEOUT_MS = 25000;
