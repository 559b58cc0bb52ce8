// One WebSocket: handshake with a time limit, frames in and out as JSON, liveness. Knows nothing of streams.
import type { ClientFrame, ServerFrame } from "../protocol.gen.js";
import { CONNECT_TIMEOUT, PING_EVERY, PING_EVERY_QUIET, PING_QUIET_AFTER, PROBE_TIMEOUT } from "./limits.js";
import { Timers } from "./timers.js";

export interface ConnectionEvents {
  open(connection: Connection): void;
  frame(connection: Connection, frame: ServerFrame): void;
  /** Once, unless drop() came first. `dead`: we gave it up. */
  close(connection: Connection, code: number, reason: string): void;
  /** What a ping may carry. */
  pingOffset(): number | undefined;
  roundTrip(ms: number): void;
  /** Sizes of frames as JSON, counted up. */
  readonly traffic: { in: number; out: number };
}

/** How often the clock is looked at: a jump means that the machine slept. */
const TICK = 5_000;

export class Connection {
  /** For `seq`: a counter per connection. */
  seq = 0;
  /** Whether the handshake succeeded, and when. */
  opened = false;
  openedAt = 0;
  /** Whether `attached` came for the last `attach`. */
  attached = false;
  /** Size and offset of the last `attach`. */
  cols = 0;
  rows = 0;
  readonly startedAt = performance.now();
  readonly timers = new Timers();
  #socket: WebSocket;
  #ping = { stamp: 0, at: 0, missed: 0 };
  /** When a frame was last sent that was no ping. Output is acknowledged by one. */
  #busyAt = 0;
  #tick = 0;

  /** Throws what `new WebSocket` throws. */
  constructor(
    Socket: typeof WebSocket,
    url: string,
    protocols: string[],
    private readonly events: ConnectionEvents,
  ) {
    const socket = new Socket(url, protocols);
    this.#socket = socket;
    this.timers.set("handshake", CONNECT_TIMEOUT, () => this.#fail(1008, "no handshake"));
    socket.onopen = () => {
      this.timers.clear("handshake");
      this.opened = true;
      this.openedAt = this.#ping.at = performance.now();
      this.#tick = Date.now();
      this.#watch();
      events.open(this); // sends, so the line counts as busy from now
    };
    socket.onmessage = (event: MessageEvent) => this.#message(event.data);
    socket.onclose = (event: CloseEvent) => this.#fail(event.code, event.reason);
  }

  /** False if the socket cannot take it; the protocol repeats what matters. */
  send(frame: ClientFrame): boolean {
    if (this.#socket.readyState !== 1) return false;
    const text = JSON.stringify(frame);
    this.events.traffic.out += text.length;
    if (frame.type !== "ping") this.#busyAt = performance.now();
    this.#socket.send(text);
    return true;
  }

  /** Asks for a pong, for the round trip and to see whether the line lives. */
  ping(): void {
    this.#ping = { stamp: Date.now(), at: performance.now(), missed: this.#ping.missed + 1 };
    this.send({ type: "ping", timestamp: this.#ping.stamp, outputOffset: this.events.pingOffset() });
  }

  /** Something looks wrong: unless anything comes within 5 s, the line is dead. */
  probe(): void {
    if (!this.opened || this.timers.has("probe")) return;
    this.ping();
    this.timers.set("probe", PROBE_TIMEOUT, () => this.#fail(1006, "no pong"));
  }

  /** Ends it without a word to the owner. */
  drop(code = 1000): void {
    this.timers.clearAll();
    const socket = this.#socket;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close(code);
  }

  #fail(code: number, reason: string): void {
    this.drop();
    this.events.close(this, code, reason);
  }

  #watch(): void {
    this.timers.set("tick", TICK, () => {
      const now = Date.now();
      const jumped = Math.abs(now - this.#tick - TICK) > 2 * TICK;
      this.#tick = now;
      this.#watch();
      if (jumped) this.probe();
      else if (this.#pingDue()) {
        if (this.#ping.missed >= 2) this.#fail(1006, "two pings without a pong");
        else this.ping();
      }
    });
  }

  /** A ping is due less often where nothing happens: it is all that such an hour costs. Not when one was missed. */
  #pingDue(): boolean {
    const now = performance.now();
    const quiet = !this.#ping.missed && now - this.#busyAt >= PING_QUIET_AFTER;
    return now - this.#ping.at >= (quiet ? PING_EVERY_QUIET : PING_EVERY);
  }

  #message(data: unknown): void {
    if (typeof data !== "string") return;
    this.events.traffic.in += data.length;
    this.timers.clear("probe");
    this.#ping.missed = 0; // whatever came, the line lives
    let frame: ServerFrame;
    try {
      frame = JSON.parse(data);
    } catch {
      return; // Not ours: API Gateway's own messages are JSON too, and have no type.
    }
    if (frame.type === "pong" && frame.echo === this.#ping.stamp) {
      this.events.roundTrip(performance.now() - this.#ping.at);
      this.#ping.stamp = 0; // a repeat measures nothing
    }
    this.events.frame(this, frame);
  }
}
