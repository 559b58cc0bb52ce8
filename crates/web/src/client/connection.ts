// One WebSocket: handshake timeout, JSON frames in both directions, liveness. Knows nothing of byte streams.
import type { ClientFrame, ServerFrame } from "../protocol.gen.js";
import { CONNECT_TIMEOUT, PING_EVERY, PING_EVERY_QUIET, PING_QUIET_AFTER, PROBE_TIMEOUT } from "./limits.js";
import { Timers } from "./timers.js";

interface ConnectionEvents {
  open(connection: Connection): void;
  frame(connection: Connection, frame: ServerFrame): void;
  /** Called at most once, and never after drop(). Timeouts close with 1006 or 1008. */
  close(connection: Connection, code: number, reason: string): void;
  /** Output offset that a ping acknowledges. */
  pingOffset(): number | undefined;
  roundTrip(ms: number): void;
  /** Running totals of frame sizes, in characters of JSON. */
  readonly traffic: { in: number; out: number };
}

/** Interval of the clock check; a jump of the clock means that the machine slept. */
const TICK = 5_000;

export class Connection {
  /** Last `seq` sent; counts per connection. */
  seq = 0;
  /** Whether the handshake succeeded. */
  opened = false;
  /** When the handshake succeeded, on the `performance.now()` clock. */
  openedAt = 0;
  /** Terminal size last sent on this connection. */
  cols = 0;
  rows = 0;
  readonly startedAt = performance.now();
  readonly #timers = new Timers();
  #socket: WebSocket;
  #ping = { stamp: 0, at: 0, missed: 0 };
  /** When a frame other than a ping was last sent. Output counts as activity too, since acks are such frames. */
  #activeAt = 0;
  #tickAt = 0;

  /** Throws what `new WebSocket` throws. */
  constructor(
    Socket: typeof WebSocket,
    url: string,
    protocols: string[],
    private readonly events: ConnectionEvents,
  ) {
    const socket = new Socket(url, protocols);
    this.#socket = socket;
    this.#timers.set("handshake", CONNECT_TIMEOUT, () => this.#closed(1008, "handshake timeout"));
    socket.onopen = () => {
      this.#timers.clear("handshake");
      this.opened = true;
      this.openedAt = this.#ping.at = performance.now();
      this.#tickAt = Date.now();
      this.#scheduleTick();
      events.open(this);
    };
    socket.onmessage = (event: MessageEvent) => this.#message(event.data);
    socket.onclose = (event: CloseEvent) => this.#closed(event.code, event.reason);
  }

  /** Returns false if the socket is not open. Callers need not retry: the protocol repeats every frame that matters. */
  send(frame: ClientFrame): boolean {
    if (this.#socket.readyState !== 1) return false;
    const text = JSON.stringify(frame);
    this.events.traffic.out += text.length;
    if (frame.type !== "ping") this.#activeAt = performance.now();
    this.#socket.send(text);
    return true;
  }

  /** Sends a ping; its pong measures the round trip. */
  ping(): void {
    this.#ping = { stamp: Date.now(), at: performance.now(), missed: this.#ping.missed + 1 };
    this.send({ type: "ping", timestamp: this.#ping.stamp, outputOffset: this.events.pingOffset() });
  }

  /** Pings, and closes the connection unless a frame arrives within 5 s. */
  probe(): void {
    if (!this.opened || this.#timers.has("probe")) return;
    this.ping();
    this.#timers.set("probe", PROBE_TIMEOUT, () => this.#closed(1006, "probe timeout"));
  }

  /** Closes the socket without calling `events.close`. */
  drop(code = 1000): void {
    this.#timers.clearAll();
    const socket = this.#socket;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close(code);
  }

  #closed(code: number, reason: string): void {
    this.drop();
    this.events.close(this, code, reason);
  }

  #scheduleTick(): void {
    this.#timers.set("tick", TICK, () => {
      const now = Date.now();
      const jumped = Math.abs(now - this.#tickAt - TICK) > 2 * TICK;
      this.#tickAt = now;
      this.#scheduleTick();
      if (jumped) this.probe();
      else if (this.#pingDue()) {
        if (this.#ping.missed >= 2) this.#closed(1006, "two pings without a pong");
        else this.ping();
      }
    });
  }

  /** An idle connection pings less often, because pings are all it costs. A missed pong restores the usual interval. */
  #pingDue(): boolean {
    const now = performance.now();
    const idle = !this.#ping.missed && now - this.#activeAt >= PING_QUIET_AFTER;
    return now - this.#ping.at >= (idle ? PING_EVERY_QUIET : PING_EVERY);
  }

  #message(data: unknown): void {
    if (typeof data !== "string") return;
    this.events.traffic.in += data.length;
    this.#timers.clear("probe");
    this.#ping.missed = 0; // any message proves the connection alive
    let frame: ServerFrame;
    try {
      frame = JSON.parse(data);
    } catch {
      return; // Not a frame. API Gateway's messages are JSON without a `type`, which no listener matches.
    }
    if (frame.type === "pong" && frame.echo === this.#ping.stamp) {
      this.events.roundTrip(performance.now() - this.#ping.at);
      this.#ping.stamp = 0; // a repeated pong would measure too much
    }
    this.events.frame(this, frame);
  }
}
