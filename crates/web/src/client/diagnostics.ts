// What the client knows of its connection, for a panel or a report.
import type { TerminalError } from "./errors.js";
import type { Streams } from "./streams.js";
import type { State } from "./types.js";

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
  /** Unix milliseconds since when the backend has answered nothing that it was asked; undefined while it answers. */
  unansweredSince: number | undefined;
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

/** What a client gathers of that while it runs. */
export class Vitals {
  attempts = 0;
  /** How often it was attached. */
  attached = 0;
  /** Whether any handshake ever succeeded. */
  accepted = false;
  connectionTime: number | undefined;
  connectionId: string | undefined;
  lastError: TerminalError | undefined;
  readonly traffic = { in: 0, out: 0 };
  #unansweredSince: number | undefined;
  #trips: number[] = [];

  /** An error, of our own or as a frame. `BACKEND_…` is what others say for a backend that does not answer. */
  failed(error: TerminalError): void {
    this.lastError = error;
    if (error.code.startsWith("BACKEND_")) this.#unansweredSince ??= Date.now();
  }

  answered(): void {
    this.#unansweredSince = undefined;
  }

  /** The last 64 are kept. */
  roundTrip(ms: number): void {
    this.#trips.push(ms);
    if (this.#trips.length > 64) this.#trips.shift();
  }

  get roundTrips(): RoundTrip {
    const sorted = [...this.#trips].sort((a, b) => a - b);
    const at = (share: number) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
    return { last: this.#trips.at(-1), median: at(0.5), p95: at(0.95) };
  }

  diagnostics(url: string, sessionId: string, state: State, streams: Streams): Diagnostics {
    const { output, input, clientId, readOnly } = streams;
    const { connectionId, connectionTime, attempts, lastError, traffic } = this;
    return {
      url,
      sessionId,
      connectionId,
      clientId: clientId || undefined,
      state,
      readOnly,
      attempts,
      lastError,
      errorCode: lastError?.code,
      unansweredSince: this.#unansweredSince,
      connectionTime,
      roundTrip: this.roundTrips,
      bytesIn: traffic.in,
      bytesOut: traffic.out,
      outputOffset: output.next,
      inputOffset: input.acked,
      outputLost: output.lost,
      reconnects: Math.max(0, this.attached - 1),
      retransmissions: input.repeated,
    };
  }
}
