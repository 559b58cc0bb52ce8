// The sending end of the input stream: what was typed, kept until acknowledged (protocol.md 3, Input). No timers, no I/O.
import { wholeCharacters } from "./bytes";
import { INPUT_CHUNK, INPUT_QUEUE_MAX, INPUT_WINDOW } from "./limits";

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
  #chunks: Uint8Array[] = []; // from `acked` on
  #bytes = 0;

  /** Bytes not acknowledged. */
  get pending(): number {
    return this.#bytes;
  }

  /** Whether bytes were sent and not acknowledged. */
  get unacknowledged(): boolean {
    return this.sent > this.acked;
  }

  /** Takes bytes, or refuses all of them when they do not fit. */
  push(bytes: Uint8Array): boolean {
    if (this.#bytes + bytes.length > INPUT_QUEUE_MAX) return false;
    if (bytes.length > 0) this.#chunks.push(bytes);
    this.#bytes += bytes.length;
    return true;
  }

  /** The next frame's worth, or nothing: all sent, or the window is full. */
  take(): { offset: number; bytes: Uint8Array } | undefined {
    const offset = this.sent;
    const room = Math.min(INPUT_CHUNK, this.acked + INPUT_WINDOW - offset, this.acked + this.#bytes - offset);
    if (room <= 0) return undefined;
    const gathered = this.#copy(offset - this.acked, room + 3); // 3 more, to see whether a character is cut
    const bytes = gathered.subarray(0, Math.min(room, wholeCharacters(gathered, room)));
    this.#started = true;
    this.sent += bytes.length;
    this.repeated += Math.max(0, Math.min(this.sent, this.#highest) - offset);
    this.#highest = Math.max(this.#highest, this.sent);
    return { offset, bytes };
  }

  /** Everything before `offset` was written. True if that was news. */
  ack(offset: number): boolean {
    if (!(offset > this.acked) || offset > this.#highest) return false;
    let gone = offset - this.acked;
    this.#bytes -= gone;
    while (gone > 0) {
      const first = this.#chunks[0];
      if (!first) break;
      if (first.length > gone) {
        this.#chunks[0] = first.subarray(gone);
        break;
      }
      gone -= first.length;
      this.#chunks.shift();
    }
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
    const bytes = this.#bytes;
    this.#chunks = [];
    this.#bytes = 0;
    this.sent = this.#highest = this.acked;
    this.#floor = 0;
    this.#started = false;
    return bytes;
  }

  #copy(skip: number, length: number): Uint8Array {
    const copy = new Uint8Array(Math.max(0, Math.min(length, this.#bytes - skip)));
    let at = -skip;
    for (const chunk of this.#chunks) {
      if (at >= copy.length) break;
      if (at + chunk.length > 0) {
        const from = Math.max(0, -at);
        copy.set(chunk.subarray(from, from + copy.length - Math.max(0, at)), Math.max(0, at));
      }
      at += chunk.length;
    }
    return copy;
  }
}
