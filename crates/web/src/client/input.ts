// Send buffer of the input stream: keeps typed bytes until acknowledged. No timers, no I/O.
// Contract: crates/protocol/README.md, section 3, "Input".
import { INPUT_CHUNK, INPUT_QUEUE_MAX, INPUT_WINDOW } from "./limits.js";

export class InputSender {
  /** The shell has read everything before this offset. */
  acked = 0;
  /** Offset of the next byte to send. */
  sent = 0;
  /** Bytes sent more than once. */
  retransmitted = 0;
  #highest = 0; // end of the bytes ever sent
  #floor = 0; // `acked` when the connection opened
  #started = false; // whether the stream's first offset is fixed
  #bytes = new Uint8Array(0); // from `acked` on

  /** Bytes not yet acknowledged, sent or not. */
  get buffered(): number {
    return this.#bytes.length;
  }

  /** Whether sent bytes are unacknowledged. */
  get inFlight(): boolean {
    return this.sent > this.acked;
  }

  /** Appends bytes. Returns false, and appends none, if they do not fit. */
  push(bytes: Uint8Array): boolean {
    const all = new Uint8Array(this.buffered + bytes.length);
    if (all.length > INPUT_QUEUE_MAX) return false;
    all.set(this.#bytes);
    all.set(bytes, this.buffered);
    this.#bytes = all;
    return true;
  }

  /** Returns the next frame's bytes; undefined if all are sent or the window is full. */
  nextChunk(): { offset: number; bytes: Uint8Array } | undefined {
    const offset = this.sent;
    const from = offset - this.acked;
    const bytes = this.#bytes.slice(from, Math.min(from + INPUT_CHUNK, INPUT_WINDOW));
    if (bytes.length === 0) return undefined;
    this.#started = true;
    this.sent += bytes.length;
    this.retransmitted += Math.max(0, Math.min(this.sent, this.#highest) - offset);
    this.#highest = Math.max(this.#highest, this.sent);
    return { offset, bytes };
  }

  /** Acknowledges everything before `offset`. Returns false if the ack is old or invalid. */
  ack(offset: number): boolean {
    if (!(offset > this.acked) || offset > this.#highest) return false;
    this.#bytes = this.#bytes.subarray(offset - this.acked);
    this.acked = offset;
    this.sent = Math.max(this.sent, offset);
    return true;
  }

  /** Makes the next chunk start at the first unacknowledged byte. */
  rewind(): void {
    this.sent = this.acked;
  }

  /** Call for each new connection: a server that knows this stream expects no offset below today's `acked`. */
  beginConnection(): void {
    this.#floor = this.acked;
  }

  /**
   * Continues at `offset`, the server's next expected byte (`attached.inputOffset`). Returns false if earlier acks rule
   * that out: the server has forgotten this stream, and input must continue as a new one. An offset between the floor and
   * `acked` comes from a late frame, and is fine.
   */
  resume(offset: number): boolean {
    if (!this.#started) {
      // A reloaded page continues the stream of the page before.
      this.acked = this.sent = this.#highest = offset;
      this.#started = true;
      return true;
    }
    if (offset < this.#floor || offset > this.#highest) return false;
    this.ack(offset);
    this.rewind();
    return true;
  }

  /** Turns the unacknowledged bytes into a new stream that starts at 0. */
  renumber(): void {
    this.acked = this.sent = this.#highest = this.#floor = 0;
    this.#started = true;
  }

  /** Drops unacknowledged bytes and returns their number. A new shell must not get input meant for the old one. */
  discard(): number {
    const { buffered } = this;
    this.#bytes = new Uint8Array(0);
    this.sent = this.#highest = this.acked;
    this.#floor = 0;
    this.#started = false;
    return buffered;
  }
}
