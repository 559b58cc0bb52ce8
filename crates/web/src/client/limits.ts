// Limits of the protocol (crates/protocol/README.md 1–4) and of this client. Sizes are bytes, times milliseconds.

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

/** Acknowledge this long after the first unacknowledged byte; the difference is for a late timer. */
export const OUTPUT_ACK_WITHIN = OUTPUT_ACK_WITHIN_MS - 10;
/** Two answers to repeated output are at least this far apart, so that a burst of repeats is one answer. */
export const REPEAT_ACK_SPACING = 50;
/** Early output held while a hole is open; what comes beyond is dropped and sent again by the server. */
export const OUTPUT_HELD_MAX = 2 * OUTPUT_WINDOW;
/** Largest number of snapshot parts believed (1,000 lines of scrollback are a few dozen). */
export const SNAPSHOT_PARTS_MAX = 1024;
/** A hole in the output open for this long: attach again from there. */
export const OUTPUT_HOLE_AFTER = 3_000;

/** Bytes of one `input` frame: 27 kB as base64, so the frame stays under 32,768 in any encoding. */
export const INPUT_CHUNK = 20_000;
/** JSON of `data` longer than this goes as base64 instead (escapes can make six bytes of one). */
export const INPUT_TEXT_MAX = 30_000;
/** First wait before unacknowledged input is sent again; doubles up to the second. */
export const INPUT_RETRY = INPUT_RETRY_MS;
export const INPUT_RETRY_MAX = 8_000;
/** Keys within this time after a frame share the next one: every frame is billed. */
export const INPUT_COALESCE = 16;
/** Input not yet acknowledged, in all; `input()` refuses what does not fit. */
export const INPUT_QUEUE_MAX = 1024 * 1024;

/** `attach` is repeated until `attached`. */
export const ATTACH_RETRY = 2_000;
/** `resize` and `command` are repeated, doubling, until answered. */
export const RESIZE_RETRY = 2_000;
export const COMMAND_RETRY = 5_000;
export const COMMAND_RETRY_MAX = 30_000;
/** How much longer than its `timeoutMs` a command is waited for. */
export const COMMAND_GRACE = 30_000;

/** A handshake longer than this has failed. */
export const CONNECT_TIMEOUT = 20_000;
/** A ping sent because something looks wrong (wake-up, network change) is answered within this, or the line is dead. */
export const PROBE_TIMEOUT = 5_000;
/** A connection this young that dies counts as a failed attempt. */
export const STABLE_AFTER = 500;
/** API Gateway ends a connection at 2 h; we move before, up to `PLANNED_JITTER` earlier. */
export const PLANNED_RECONNECT = 115 * 60_000;
export const PLANNED_JITTER = 5 * 60_000;
/** Next try when the planned connection could not be made. */
export const PLANNED_RETRY = 30_000;
/** A token is renewed this long before it ends. */
export const TOKEN_RENEW_BEFORE = 30_000;
/** Longest wait for the diagnostics endpoint and for a new token. */
export const FETCH_TIMEOUT = 8_000;

export const BACKOFF_MIN = 250;
export const BACKOFF_MAX = 30_000;
export const MAX_RETRIES = 10;
