// Full-jitter backoff: a random delay below an exponentially growing bound.
// https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
import { BACKOFF_MAX, BACKOFF_MIN } from "./limits.js";

/** Delay in milliseconds before retry `attempt`, counted from 0. `random` returns a number in [0, 1). */
export function fullJitter(attempt: number, random: () => number = Math.random): number {
  return random() * Math.min(BACKOFF_MAX, BACKOFF_MIN * 2 ** attempt);
}
