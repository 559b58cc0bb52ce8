// Statistics of a client's connections, for a panel or a bug report.
import type { TerminalError } from "./errors.js";
import type { Streams } from "./streams.js";
import type { State } from "./types.js";

export interface RoundTrip {
  last: number | undefined;
  median: number | undefined;
  p95: number | undefined;
}

export interface Diagnostics {
  /** The token is masked. */
  url: string;
  sessionId: string;
  /** API Gateway's id of the connection. */
  connectionId: string | undefined;
  /** Name of this client's input stream. */
  clientId: string | undefined;
  state: string;
  readOnly: boolean;
  /** Failed attempts since the last stable connection. */
  attempts: number;
  lastError: TerminalError | undefined;
  errorCode: string | undefined;
  /** Unix milliseconds of the first request that the backend left unanswered; undefined while it answers. */
  unansweredSince: number | undefined;
  /** Duration of the last handshake, in milliseconds. */
  connectionTime: number | undefined;
  /** Milliseconds. */
  roundTrip: RoundTrip;
  /** Frame sizes in total, in characters of JSON. */
  bytesIn: number;
  bytesOut: number;
  /** Next output byte expected. */
  outputOffset: number;
  /** Input bytes acknowledged. */
  inputOffset: number;
  /** Output bytes that the server no longer had; snapshots replaced them. */
  outputLost: number;
  reconnects: number;
  /** Input bytes sent more than once. */
  retransmissions: number;
}

/** Round-trip samples kept. */
const SAMPLES = 64;

export class Stats {
  attempts = 0;
  /** Number of attached connections. */
  attached = 0;
  /** Whether any handshake has succeeded. */
  accepted = false;
  connectionTime: number | undefined;
  connectionId: string | undefined;
  lastError: TerminalError | undefined;
  readonly traffic = { in: 0, out: 0 };
  #unansweredSince: number | undefined;
  #roundTrips: number[] = [];

  /** The codes `BACKEND_…` mean that the gateway or the function got no answer from the backend. */
  recordError(error: TerminalError): void {
    this.lastError = error;
    if (error.code.startsWith("BACKEND_")) this.#unansweredSince ??= Date.now();
  }

  recordAnswer(): void {
    this.#unansweredSince = undefined;
  }

  recordRoundTrip(ms: number): void {
    this.#roundTrips.push(ms);
    if (this.#roundTrips.length > SAMPLES) this.#roundTrips.shift();
  }

  get roundTrip(): RoundTrip {
    const sorted = [...this.#roundTrips].sort((a, b) => a - b);
    const quantile = (q: number) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))];
    return { last: this.#roundTrips.at(-1), median: quantile(0.5), p95: quantile(0.95) };
  }

  diagnostics(url: string, sessionId: string, state: State, streams: Streams): Diagnostics {
    const { output, input, clientId, readOnly } = streams;
    const { connectionId, connectionTime, attempts, lastError, traffic, roundTrip } = this;
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
      roundTrip,
      bytesIn: traffic.in,
      bytesOut: traffic.out,
      outputOffset: output.next,
      inputOffset: input.acked,
      outputLost: output.lost,
      reconnects: Math.max(0, this.attached - 1),
      retransmissions: input.retransmitted,
    };
  }
}
