// Generated from crates/protocol by `make types`. Do not edit: `make test` fails when it differs.

/**
 * Code of an `error` frame. What a client may do about it is [`ErrorCode::retryable`].
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
 * As a shell's `$?` has it: 128 + signal when killed.
 */
exitCode: number, 
/**
 * The signal that ended it, such as `SIGKILL`.
 */
signal?: string, };

/**
 * One command that was run with `command`.
 */
export type HistoryEntry = { 
/**
 * As it was sent.
 */
command: string, 
/**
 * As a shell's `$?` has it.
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
 * What failed.
 */
code: ErrorCode, 
/**
 * For people; never a secret, never another program's words.
 */
message: string, 
/**
 * Whether the same request may succeed later.
 */
retryable: boolean, 
/**
 * The frame it answers: its `id`, else its `type`.
 */
ref?: string, 
/**
 * The next input byte expected (`INPUT_GAP`).
 */
inputOffset?: number, };

/**
 * What a client sends.
 */
export type ClientFrame = { "type": "ping", 
/**
 * The client's clock, given back as `echo`.
 */
timestamp?: number, 
/**
 * Acknowledges output up to here.
 */
outputOffset?: number, } | { "type": "command", 
/**
 * Handed to the shell's `-c`.
 */
command: string, 
/**
 * Repeats with the same id are answered from the first run.
 */
id?: string, 
/**
 * Killed after this many milliseconds; default 25,000, at most 600,000.
 */
timeoutMs?: number, } | { "type": "resize", 
/**
 * Columns, 1 or more.
 */
cols: number, 
/**
 * Rows, 1 or more.
 */
rows: number, 
/**
 * Counter per connection; one not above the last seen has no effect.
 */
seq?: number, } | { "type": "history" } | { "type": "clear" } | { "type": "echo" } | { "type": "attach", 
/**
 * The client's own name for its input stream: 16–64 of `[A-Za-z0-9_-]`.
 */
clientId: ClientId, 
/**
 * Columns, 1 or more.
 */
cols: number, 
/**
 * Rows, 1 or more.
 */
rows: number, 
/**
 * First output byte still needed; without it, 0.
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
 * Whose input stream it is.
 */
clientId: ClientId, 
/**
 * Offset of the first byte.
 */
offset: number, 
/**
 * The shell they are meant for.
 */
epoch?: Epoch, 
/**
 * Acknowledges output up to here.
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
 * Everything before this offset has arrived.
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
 * What the backend, or the Lambda for it, sends.
 */
export type ServerFrame = { "type": "connected", 
/**
 * For people.
 */
message: string, 
/**
 * The session the token opened.
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
 * Version of this contract.
 */
protocol: number, 
/**
 * Whether this connection may only watch.
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
 * stdout and stderr in the order written; invalid UTF-8 replaced.
 */
result: string, 
/**
 * As a shell's `$?` has it: 128 + signal when killed.
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
 * How long it ran.
 */
durationMs: number, 
/**
 * The signal that ended it, such as `SIGKILL`.
 */
signal?: string, 
/**
 * Whether `result` is not all there was.
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
 * The newest 100, oldest first.
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
 * For people.
 */
message: string, 
/**
 * When it was sent.
 */
timestamp: UnixMs, } | { "type": "attached", 
/**
 * The shell running now.
 */
epoch: Epoch, 
/**
 * Where output goes on.
 */
outputOffset: number, 
/**
 * The next input byte expected of this client.
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
 * Whether this connection may only watch.
 */
readOnly: boolean, 
/**
 * Output bytes that the client needs and that are gone; a `snapshot` follows.
 */
gap?: number, 
/**
 * The shell has ended.
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
 * Acknowledges input up to here.
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
 * Where output goes on; also names the snapshot that this part belongs to.
 */
offset: number, 
/**
 * Index of this part, from 0.
 */
part: number, 
/**
 * How many parts there are.
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
 * Output bytes that it stands for.
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
 * Whose input.
 */
clientId: ClientId, 
/**
 * Everything before this offset was written to the shell.
 */
inputOffset: number, } | { "type": "exit", 
/**
 * The shell.
 */
epoch: Epoch, 
/**
 * End of its output; the client waits for everything before it.
 */
offset: number, 
/**
 * As a shell's `$?` has it: 128 + signal when killed.
 */
exitCode: number, 
/**
 * The signal that ended it, such as `SIGKILL`.
 */
signal?: string, } | { "type": "detached" } | { "type": "notice", 
/**
 * What it is about.
 */
code: NoticeCode, 
/**
 * For people.
 */
message: string, } | { "type": "error" } & ErrorFrame;

/** Version of the contract. */
export const PROTOCOL_VERSION = 1;
/** WebSocket subprotocol. */
export const SUBPROTOCOL = "shellbridge.v1";
/** Bytes of a client frame as JSON. */
export const MAX_FRAME = 32768;
/** Input bytes beyond `inputOffset`. */
export const INPUT_WINDOW = 65536;
/** First wait before input is sent again. */
export const INPUT_RETRY_MS = 500;
/** Output bytes past an acknowledgement. */
export const OUTPUT_WINDOW = 262144;
/** Unacknowledged bytes that want an ack. */
export const OUTPUT_ACK_EVERY = 32768;
/** Longest wait of an ack. */
export const OUTPUT_ACK_WITHIN_MS = 200;
/** Between two pings. */
export const PING_EVERY_MS = 30000;
/** The same where all is quiet. */
export const PING_EVERY_QUIET_MS = 60000;
/** Time in which nothing else was sent. */
export const PING_QUIET_AFTER_MS = 300000;
/** How long a lost client is waited for. */
export const RESUME_GRACE_MS = 60000;
/** Default `timeoutMs`. */
export const COMMAND_TIMEOUT_MS = 25000;
