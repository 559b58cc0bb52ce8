// Full-jitter backoff: a wait anywhere between nothing and an exponentially growing bound.
// https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
import { BACKOFF_MAX, BACKOFF_MIN } from "./limits.js";

/** The wait before retry number `attempt` (from 0), in milliseconds. `random` is in [0, 1). */
export function fullJitter(attempt: number, random: () => number = Math.random): number {
  return random() * Math.min(BACKOFF_MAX, BACKOFF_MIN * 2 ** attempt);
}
