// What the client knows of its connection, for a panel or a report.
import type { TerminalError } from "./errors";

export interface RoundTrip {
  last: number | undefined;
  median: number | undefined;
  p95: number | undefined;
}

export interface Diagnostics {
  /** With the token masked. */
  url: string;
  sessionId: string;
  /** The server's name for this connection. */
  connectionId: string | undefined;
  /** Our name for our input stream. */
  clientId: string | undefined;
  state: string;
  readOnly: boolean;
  /** Failed attempts since the last good connection. */
  attempts: number;
  lastError: TerminalError | undefined;
  errorCode: string | undefined;
  /** Of the last handshake, in milliseconds. */
  connectionTime: number | undefined;
  /** Milliseconds. */
  roundTrip: RoundTrip;
  /** Sizes of frames as JSON. */
  bytesIn: number;
  bytesOut: number;
  /** Offsets of the two streams. */
  outputOffset: number;
  inputOffset: number;
  /** Output that was gone and came as a picture of the screen instead. */
  outputLost: number;
  reconnects: number;
  /** Input bytes sent more than once. */
  retransmissions: number;
}

/** The last 64 round trips. */
export class RoundTrips {
  #samples: number[] = [];

  add(ms: number): void {
    this.#samples.push(ms);
    if (this.#samples.length > 64) this.#samples.shift();
  }

  get summary(): RoundTrip {
    const sorted = [...this.#samples].sort((a, b) => a - b);
    const at = (share: number) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
    return { last: this.#samples.at(-1), median: at(0.5), p95: at(0.95) };
  }
}
