// Limits of the protocol (crates/protocol/README.md 1–4) and of this client. Sizes are in bytes, times in milliseconds.

import { INPUT_RETRY_MS, OUTPUT_ACK_WITHIN_MS, OUTPUT_WINDOW } from "../protocol.gen.js";

export {
  COMMAND_TIMEOUT_MS as COMMAND_TIMEOUT,
  INPUT_WINDOW,
  OUTPUT_ACK_EVERY,
  PING_EVERY_MS as PING_EVERY,
  PING_EVERY_QUIET_MS as PING_EVERY_QUIET,
  PING_QUIET_AFTER_MS as PING_QUIET_AFTER,
  SUBPROTOCOL,
} from "../protocol.gen.js";

/** Delay of an ack after the first unacknowledged byte. The 10 ms allow for a late timer. */
export const OUTPUT_ACK_WITHIN = OUTPUT_ACK_WITHIN_MS - 10;
/** Minimum time between two acks of repeated output, so that a burst of repeats causes one ack. */
export const REPEAT_ACK_SPACING = 50;
/** Out-of-order output buffered behind a hole. The client drops the rest, and the server sends it again. */
export const OUTPUT_HELD_MAX = 2 * OUTPUT_WINDOW;
/** Most parts accepted of a snapshot; 1,000 lines of scrollback take a few dozen. */
export const SNAPSHOT_PARTS_MAX = 1024;
/** Age at which a hole in the output makes the client attach again. */
export const OUTPUT_HOLE_AFTER = 3_000;

/** Input bytes per frame: 27 kB as base64, so the frame stays under 32,768 bytes in either encoding. */
export const INPUT_CHUNK = 20_000;
/** Longest `data` as JSON; escapes can turn one byte into six. Longer payloads go as base64. */
export const INPUT_TEXT_MAX = 30_000;
/** First delay before unacknowledged input is sent again; doubles up to `INPUT_RETRY_MAX`. */
export const INPUT_RETRY = INPUT_RETRY_MS;
export const INPUT_RETRY_MAX = 8_000;
/** Keys typed within this time of a frame share the next one, because API Gateway bills each frame. */
export const INPUT_COALESCE = 16;
/** Total unacknowledged input; `input()` rejects more. */
export const INPUT_QUEUE_MAX = 1024 * 1024;

/** Interval at which `attach` is repeated until `attached` arrives. */
export const ATTACH_RETRY = 2_000;
/** First delay before `resize` or `command` is repeated; doubles until the frame is answered. */
export const RESIZE_RETRY = 2_000;
export const COMMAND_RETRY = 5_000;
export const COMMAND_RETRY_MAX = 30_000;
/** Time allowed for a command's result beyond its `timeoutMs`. */
export const COMMAND_GRACE = 30_000;

/** Timeout of a handshake. */
export const CONNECT_TIMEOUT = 20_000;
/** Timeout of a probe, the ping sent after a wake-up or a network change. */
export const PROBE_TIMEOUT = 5_000;
/** Age at which a connection resets the count of failed attempts. */
export const STABLE_AFTER = 500;
/** API Gateway closes connections after 2 h. The client moves to a new one before, up to `PLANNED_JITTER` earlier. */
export const PLANNED_RECONNECT = 115 * 60_000;
export const PLANNED_JITTER = 5 * 60_000;
/** Delay before a planned reconnect that failed is tried again. */
export const PLANNED_RETRY = 30_000;
/** Time before its expiry at which a token is renewed. */
export const TOKEN_RENEW_BEFORE = 30_000;
/** Timeout of the diagnostics endpoint and of `refreshToken`. */
export const FETCH_TIMEOUT = 8_000;

export const BACKOFF_MIN = 250;
export const BACKOFF_MAX = 30_000;
export const MAX_RETRIES = 10;
