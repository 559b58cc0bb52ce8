//! Every limit of the wire contract, in one place. Sizes are bytes, times are as named.

use std::time::Duration;

/// Protocol version, said in `connected` and in diagnostics.
pub const PROTOCOL_VERSION: u32 = 1;
/// WebSocket subprotocol that the server selects when the client offers it.
pub const SUBPROTOCOL: &str = "shellbridge.v1";

/// Largest client frame, and largest `output` or `snapshot` frame, as JSON. It is the payload quota of an
/// API Gateway WebSocket frame, and also the unit in which messages are metered (API Gateway quotas page).
pub const MAX_FRAME: usize = 32_768;
/// Largest answer of any other kind, as JSON: API Gateway's WebSocket message quota.
pub const MAX_MESSAGE: usize = 131_072;
/// Body limit of `/api/ws/message`: a whole client frame plus what the Lambda adds to it.
pub const MAX_BRIDGE_BODY: usize = 40 * 1024;

/// Input accepted beyond the next expected byte of a client's stream.
pub const INPUT_WINDOW: usize = 64 * 1024;
/// Input streams kept for one session; the longest gone is forgotten.
pub const MAX_CLIENTS: usize = 32;
/// Accepted input is acknowledged within this time.
pub const INPUT_ACK_WITHIN: Duration = Duration::from_millis(200);
/// A hole in the input open for this long is reported as `INPUT_GAP`.
pub const INPUT_GAP_AFTER: Duration = Duration::from_secs(2);
/// A client sends unacknowledged input again after at least this, doubling.
pub const INPUT_RETRY: Duration = Duration::from_millis(500);

/// Output sent past a connection's last acknowledgement (`OUTPUT_WINDOW`).
pub const OUTPUT_WINDOW: usize = 256 * 1024;
/// Output kept for replay (`OUTPUT_BUFFER`).
pub const OUTPUT_BUFFER: usize = 1024 * 1024;
/// A client acknowledges when this much is unacknowledged.
pub const OUTPUT_ACK_EVERY: usize = 32 * 1024;
/// A client acknowledges within this time of the last unacknowledged byte.
pub const OUTPUT_ACK_WITHIN: Duration = Duration::from_millis(200);
/// First wait of a sender stopped at the window before it probes; doubles up to [`PROBE_MAX`].
pub const PROBE_FIRST: Duration = Duration::from_secs(1);
/// Longest wait between two probes.
pub const PROBE_MAX: Duration = Duration::from_secs(30);
/// Lines of scrollback in a snapshot.
pub const SNAPSHOT_SCROLLBACK: usize = 1_000;

/// Shortest and longest `clientId`.
pub const CLIENT_ID_LEN: std::ops::RangeInclusive<usize> = 16..=64;
/// Largest terminal; larger requests are brought down to it, because the screen model is kept in memory, and a few bytes
/// can touch all of it.
pub const MAX_COLS: u16 = 500;
/// See [`MAX_COLS`].
pub const MAX_ROWS: u16 = 200;

/// `command` without `timeoutMs` is killed after this.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(25);
/// Longest `timeoutMs`; larger requests are brought down to it.
pub const MAX_COMMAND_TIMEOUT: Duration = Duration::from_mins(10);
/// Bytes of a command's output in `result`, before `truncated`.
pub const MAX_COMMAND_RESULT: usize = 100_000;
/// Commands of one session that may wait for their turn.
pub const MAX_COMMAND_QUEUE: usize = 16;
/// Command results kept, so that a repeated id is answered and not run again.
pub const MAX_COMMAND_RESULTS: usize = 16;
/// Bytes of command results kept.
pub const MAX_COMMAND_RESULTS_BYTES: usize = 1024 * 1024;
/// How long a command result is kept.
pub const COMMAND_RESULT_TTL: Duration = Duration::from_mins(10);
/// Entries of the command history.
pub const MAX_HISTORY: usize = 100;

/// The backend answers every message within this; what takes longer is pushed.
pub const REPLY_WITHIN: Duration = Duration::from_secs(2);
/// A push may meet 410 for this long after connecting, because the handshake has not ended.
pub const HANDSHAKE_GRACE: Duration = Duration::from_secs(3);
/// Pushes to a connection failing for this long end it.
pub const PUSH_FAILING_FOR: Duration = Duration::from_secs(30);
/// A client pings after this.
pub const PING_EVERY: Duration = Duration::from_secs(30);
/// And after this, once it has sent nothing else for [`PING_QUIET_AFTER`]: what an idle hour costs is its pings.
/// Sooner than a connection is checked ([`CHECK_AFTER`]).
pub const PING_EVERY_QUIET: Duration = Duration::from_mins(1);
/// See [`PING_EVERY_QUIET`].
pub const PING_QUIET_AFTER: Duration = Duration::from_mins(5);
/// A connection without a frame for this long is checked with GET.
pub const CHECK_AFTER: Duration = Duration::from_secs(90);
/// A client lost for less than this holds the shell back rather than lose output (`RESUME_GRACE`).
pub const RESUME_GRACE: Duration = Duration::from_mins(1);

/// Leeway on the time claims of a user's token, in seconds: at the door, and for connections that live
/// ([`good_until`](crate::access::good_until)).
pub const TOKEN_LEEWAY: i64 = 30;
/// Life of a bridge token, in seconds.
pub const BRIDGE_TOKEN_TTL: i64 = 60;
/// Leeway on the time claims of a bridge token, in seconds.
pub const BRIDGE_TOKEN_LEEWAY: i64 = 5;
/// Shortest key of `BRIDGE_SECRET`, `JWT_SECRET` and `ADMIN_TOKEN`: the output size of SHA-256 (RFC 7518, section 3.2).
pub const MIN_SECRET: usize = 32;
