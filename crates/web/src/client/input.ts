// The sending end of the input stream: what was typed, kept until acknowledged. No timers, no I/O.
// Contract: crates/protocol/README.md, section 3, "Input".
import { INPUT_CHUNK, INPUT_QUEUE_MAX, INPUT_WINDOW } from "./limits.js";

export class InputSender {
  /** Everything before this was written to the shell. */
  acked = 0;
  /** The next byte to send. Goes back to `acked` to send again. */
  sent = 0;
  /** Bytes sent more than once. */
  repeated = 0;
  #highest = 0; // end of what was ever sent
  #floor = 0; // what was acknowledged when the connection opened
  #started = false; // whether this stream's start is settled
  #bytes = new Uint8Array(0); // from `acked` on

  /** Bytes not acknowledged. */
  get pending(): number {
    return this.#bytes.length;
  }

  /** Whether bytes were sent and not acknowledged. */
  get unacknowledged(): boolean {
    return this.sent > this.acked;
  }

  /** Takes bytes, or refuses all of them when they do not fit. */
  push(bytes: Uint8Array): boolean {
    const all = new Uint8Array(this.pending + bytes.length);
    if (all.length > INPUT_QUEUE_MAX) return false;
    all.set(this.#bytes);
    all.set(bytes, this.pending);
    this.#bytes = all;
    return true;
  }

  /** The next frame's worth, or nothing: all sent, or the window is full. */
  take(): { offset: number; bytes: Uint8Array } | undefined {
    const offset = this.sent;
    const from = offset - this.acked;
    const bytes = this.#bytes.slice(from, Math.min(from + INPUT_CHUNK, INPUT_WINDOW));
    if (bytes.length === 0) return undefined;
    this.#started = true;
    this.sent += bytes.length;
    this.repeated += Math.max(0, Math.min(this.sent, this.#highest) - offset);
    this.#highest = Math.max(this.#highest, this.sent);
    return { offset, bytes };
  }

  /** Everything before `offset` was written. True if that was news. */
  ack(offset: number): boolean {
    if (!(offset > this.acked) || offset > this.#highest) return false;
    this.#bytes = this.#bytes.subarray(offset - this.acked);
    this.acked = offset;
    this.sent = Math.max(this.sent, offset);
    return true;
  }

  /** Sends again from what is acknowledged. */
  back(): void {
    this.sent = this.acked;
  }

  /** A new connection opened: the server that remembers us expects nothing before this. */
  mark(): void {
    this.#floor = this.acked;
  }

  /**
   * The server expects `offset` next (`attached.inputOffset`). False: this is not the stream that the server knows
   * by our name, so go on under another name from 0. An offset below `acked` that the server could still have said
   * on this connection is only late.
   */
  resume(offset: number): boolean {
    if (!this.#started) {
      // A page that was reloaded: its stream goes on where the server is.
      this.acked = this.sent = this.#highest = offset;
      this.#started = true;
      return true;
    }
    if (offset < this.#floor || offset > this.#highest) return false;
    this.ack(offset);
    this.back();
    return true;
  }

  /** Keeps what is not acknowledged, as a new stream from 0. */
  restart(): void {
    this.acked = this.sent = this.#highest = this.#floor = 0;
    this.#started = true;
  }

  /** Forgets everything not acknowledged: a new shell must not get what was meant for the old one. */
  discard(): number {
    const { pending } = this;
    this.#bytes = new Uint8Array(0);
    this.sent = this.#highest = this.acked;
    this.#floor = 0;
    this.#started = false;
    return pending;
  }
}
