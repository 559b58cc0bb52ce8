//! All limits of the wire contract. Sizes are in bytes unless stated otherwise.

use std::time::Duration;

/// Protocol version, as in `connected` and diagnostics.
pub const PROTOCOL_VERSION: u32 = 1;
/// WebSocket subprotocol that the server selects when the client offers it.
pub const SUBPROTOCOL: &str = "shellbridge.v1";

/// Largest client frame, and largest `output` or `snapshot` frame, as JSON. It is the payload quota of an
/// API Gateway WebSocket frame, and also the unit in which messages are metered (API Gateway quotas page).
pub const MAX_FRAME: usize = 32_768;
/// Largest frame of any other type to a client, as JSON: API Gateway's WebSocket message quota.
pub const MAX_MESSAGE: usize = 131_072;
/// Body limit of `/api/ws/message`: a client frame plus the Lambda's fields.
pub const MAX_BRIDGE_BODY: usize = 40 * 1024;

/// Input accepted beyond the next expected byte of a client's stream.
pub const INPUT_WINDOW: usize = 64 * 1024;
/// Input streams that a session remembers; the one gone longest is forgotten.
pub const MAX_CLIENTS: usize = 32;
/// Accepted input is acknowledged within this time.
pub const INPUT_ACK_WITHIN: Duration = Duration::from_millis(200);
/// A hole in the input open for this long is reported as `INPUT_GAP`.
pub const INPUT_GAP_AFTER: Duration = Duration::from_secs(2);
/// First wait of a client before it resends unacknowledged input; doubles.
pub const INPUT_RETRY: Duration = Duration::from_millis(500);

/// Default of `OUTPUT_WINDOW`: output sent past a connection's last acknowledgement.
pub const OUTPUT_WINDOW: usize = 256 * 1024;
/// Default of `OUTPUT_BUFFER`: output kept for replay.
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

/// Length of a `clientId`.
pub const CLIENT_ID_LEN: std::ops::RangeInclusive<usize> = 16..=64;
/// Most columns of a terminal; larger sizes are clamped. The screen model is kept in memory, and a few bytes of output can
/// change all of it.
pub const MAX_COLS: u16 = 500;
/// Most rows; see [`MAX_COLS`].
pub const MAX_ROWS: u16 = 200;

/// Default `timeoutMs` of a `command`.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(25);
/// Longest `timeoutMs`; larger values are clamped.
pub const MAX_COMMAND_TIMEOUT: Duration = Duration::from_mins(10);
/// Bytes of a command's output in `result`; longer output is `truncated`.
pub const MAX_COMMAND_RESULT: usize = 100_000;
/// Commands of one session that may wait.
pub const MAX_COMMAND_QUEUE: usize = 16;
/// Command results kept, so that a repeated id does not run again.
pub const MAX_COMMAND_RESULTS: usize = 16;
/// Bytes of command results kept.
pub const MAX_COMMAND_RESULTS_BYTES: usize = 1024 * 1024;
/// How long a command result is kept.
pub const COMMAND_RESULT_TTL: Duration = Duration::from_mins(10);
/// Entries of the command history.
pub const MAX_HISTORY: usize = 100;

/// The backend responds to every message within this; a later answer is pushed.
pub const REPLY_WITHIN: Duration = Duration::from_secs(2);
/// A push may meet 410 for this long after connecting, because the handshake has not ended.
pub const HANDSHAKE_GRACE: Duration = Duration::from_secs(3);
/// A connection ends once pushes to it have failed for this long.
pub const PUSH_FAILING_FOR: Duration = Duration::from_secs(30);
/// Interval of a client's pings.
pub const PING_EVERY: Duration = Duration::from_secs(30);
/// The interval once the client has sent nothing else for [`PING_QUIET_AFTER`], because pings are the whole cost of an idle
/// hour. Shorter than [`CHECK_AFTER`].
pub const PING_EVERY_QUIET: Duration = Duration::from_mins(1);
/// See [`PING_EVERY_QUIET`].
pub const PING_QUIET_AFTER: Duration = Duration::from_mins(5);
/// After this long without a frame, a connection's existence is checked with GET.
pub const CHECK_AFTER: Duration = Duration::from_secs(90);
/// Default of `RESUME_GRACE`: for this long, a lost client pauses the shell rather than lose output.
pub const RESUME_GRACE: Duration = Duration::from_mins(1);

/// Leeway on the time claims of a user's token, in seconds, for handshakes and open connections
/// ([`valid_until`](crate::access::valid_until)).
pub const TOKEN_LEEWAY: i64 = 30;
/// Lifetime of a bridge token, in seconds.
pub const BRIDGE_TOKEN_TTL: i64 = 60;
/// Leeway on the time claims of a bridge token, in seconds.
pub const BRIDGE_TOKEN_LEEWAY: i64 = 5;
/// Shortest key of `BRIDGE_SECRET`, `JWT_SECRET` and `ADMIN_TOKEN`: the output size of SHA-256 (RFC 7518, section 3.2).
pub const MIN_SECRET: usize = 32;
