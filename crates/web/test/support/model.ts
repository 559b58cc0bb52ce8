// A backend as crates/protocol/README.md 3 describes it, written for these tests, behind a network that reorders, repeats, loses
// and cuts. A snapshot here is simply the whole output so far, so that the screen must in the end equal the output.
import { encodePayload } from "../../src/client/bytes";
import type { ClientFrame, ServerFrame } from "../../src/protocol.gen";
import { FakeSocket } from "./socket";

export interface Faults {
  /** Share of frames that are delayed far enough to be overtaken. */
  reorder: number;
  repeat: number;
  /** Client to server only: pushes that fail are sent again by the contract, and lost ones are with a connection. */
  drop: number;
  /** A connection lives at most so long, in milliseconds; 0: for ever. */
  cutEvery: number;
}

/** mulberry32: small, and the same everywhere. */
export function seeded(seed: number): () => number {
  let a = seed >>> 0;
  return () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), 1 | a);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

const WINDOW = 256 * 1024;
const encoder = new TextEncoder();

interface Stream {
  next: number;
  held: Map<number, Uint8Array>;
  written: number[];
}

interface Line {
  socket: FakeSocket;
  id: number;
  clientId: string | undefined;
  seq: number;
  sent: number;
  acked: number;
  snapshot: ServerFrame[] | undefined;
  snapshotAt: number;
  probe: ReturnType<typeof setTimeout> | undefined;
  probeWait: number;
}

export class ModelServer {
  epoch = 1_700_000_000_000;
  log = new Uint8Array(0);
  buffer = 64 * 1024;
  streams = new Map<string, Stream>();
  lines = new Set<Line>();
  connections = 0;
  errors: string[] = [];
  exit: { exitCode: number } | undefined;
  #timers = new Set<ReturnType<typeof setTimeout>>();

  constructor(
    private readonly random: () => number,
    private readonly faults: Faults,
  ) {
    FakeSocket.onCreate = (socket) => this.#after(5 + 20 * this.random(), () => this.#accept(socket));
  }

  /** The shell prints. */
  print(text: string): void {
    const bytes = encoder.encode(text);
    const log = new Uint8Array(this.log.length + bytes.length);
    log.set(this.log);
    log.set(bytes, this.log.length);
    this.log = log;
    for (const line of this.lines) this.#pump(line);
  }

  get output(): string {
    return new TextDecoder().decode(this.log);
  }

  /** What all clients typed, in the order written. */
  get typed(): string {
    return [...this.streams.values()].map(({ written }) => new TextDecoder().decode(Uint8Array.from(written))).join("");
  }

  end(exitCode: number): void {
    this.exit = { exitCode };
    for (const line of this.lines) if (line.clientId) this.#sayExit(line);
  }

  restart(): void {
    this.epoch += 1000;
    this.log = new Uint8Array(0);
    this.streams.clear();
    for (const line of this.lines) {
      line.clientId = undefined;
      this.#push(line, { type: "notice", code: "SHELL_RESTARTED", message: "a new shell" });
    }
  }

  calm(): void {
    Object.assign(this.faults, { reorder: 0, repeat: 0, drop: 0, cutEvery: 0 });
  }

  stop(): void {
    for (const timer of this.#timers) clearTimeout(timer);
    for (const line of this.lines) clearTimeout(line.probe);
    this.lines.clear();
    FakeSocket.onCreate = undefined;
  }

  #after(ms: number, then: () => void): void {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      then();
    }, ms);
    this.#timers.add(timer);
  }

  /** Through the network, `drop` only where the contract allows it. */
  #carry(droppable: boolean, then: () => void): void {
    const { reorder, repeat, drop } = this.faults;
    if (droppable && this.random() < drop) return;
    const copies = this.random() < repeat ? 2 : 1;
    for (let i = 0; i < copies; i++) this.#after(2 + (this.random() < reorder ? 400 * this.random() : 0), then);
  }

  #accept(socket: FakeSocket): void {
    if (socket.readyState !== 0) return;
    const line: Line = {
      socket,
      id: ++this.connections,
      clientId: undefined,
      seq: 0,
      sent: 0,
      acked: 0,
      snapshot: undefined,
      snapshotAt: 0,
      probe: undefined,
      probeWait: 1000,
    };
    this.lines.add(line);
    socket.onSend = (frame) => this.#carry(true, () => this.lines.has(line) && this.#receive(line, frame));
    socket.onClientClose = () => this.#gone(line);
    socket.open();
    if (this.faults.cutEvery > 0) {
      this.#after(this.faults.cutEvery * (0.3 + this.random()), () => {
        this.#gone(line);
        socket.cut(this.random() < 0.5 ? 1006 : 1001);
      });
    }
  }

  #gone(line: Line): void {
    clearTimeout(line.probe);
    this.lines.delete(line);
  }

  #push(line: Line, frame: ServerFrame): void {
    this.#carry(false, () => line.socket.say(frame));
  }

  #receive(line: Line, frame: ClientFrame): void {
    const refuse = (code: "NOT_ATTACHED" | "REPLACED" | "INPUT_GAP", retryable: boolean, inputOffset?: number) => {
      this.errors.push(code);
      this.#push(line, { type: "error", code, message: code, retryable, ref: frame.type, inputOffset });
    };
    switch (frame.type) {
      case "ping":
        this.#push(line, { type: "pong", timestamp: 0, echo: frame.timestamp });
        if (frame.outputOffset !== undefined) this.#acknowledge(line, frame.outputOffset);
        break;
      case "attach": {
        const stream = this.#stream(frame.clientId);
        const holder = [...this.lines].filter((other) => other.clientId === frame.clientId && other !== line);
        if (holder.some((other) => other.id > line.id)) return refuse("REPLACED", false);
        for (const other of holder) other.clientId = undefined;
        const again = (frame.seq ?? 0) <= line.seq;
        line.seq = Math.max(line.seq, frame.seq ?? 0);
        if (!again || line.clientId !== frame.clientId) {
          if (again) return; // an old attach after something newer: answered, without effect
          line.clientId = frame.clientId;
          stream.held.clear();
          line.sent = line.acked = frame.epoch === this.epoch ? (frame.outputOffset ?? 0) : 0;
          line.snapshot = undefined;
        }
        const needed = line.sent;
        const from = this.log.length - this.buffer;
        const gap = needed < from ? this.log.length - needed : undefined;
        this.#push(line, {
          type: "attached",
          epoch: this.epoch,
          outputOffset: gap === undefined ? needed : this.log.length,
          inputOffset: stream.next,
          cols: 80,
          rows: 24,
          readOnly: false,
          gap,
          exit: this.exit,
        });
        this.#pump(line);
        if (this.exit) this.#sayExit(line);
        break;
      }
      case "ack":
        if (frame.epoch === this.epoch) this.#acknowledge(line, frame.outputOffset);
        break;
      case "input": {
        if (frame.epoch !== this.epoch) return;
        if (line.clientId === undefined) {
          const taken = [...this.lines].some((other) => other.clientId === frame.clientId && other.id > line.id);
          return taken ? refuse("REPLACED", false) : refuse("NOT_ATTACHED", true);
        }
        if (frame.outputOffset !== undefined) this.#acknowledge(line, frame.outputOffset);
        const stream = this.#stream(frame.clientId);
        const bytes =
          frame.data !== undefined
            ? encoder.encode(frame.data)
            : Uint8Array.from(atob(frame.b64 ?? ""), (c) => c.charCodeAt(0));
        stream.held.set(frame.offset, bytes);
        for (let more = true; more; ) {
          more = false;
          for (const [offset, held] of stream.held) {
            if (offset > stream.next) continue;
            stream.held.delete(offset);
            if (offset + held.length <= stream.next) continue;
            stream.written.push(...held.subarray(stream.next - offset));
            stream.next = offset + held.length;
            more = true;
          }
        }
        const { clientId } = frame;
        this.#after(
          50,
          () =>
            this.lines.has(line) &&
            this.#push(line, {
              type: "input_ack",
              epoch: this.epoch,
              clientId,
              inputOffset: this.#stream(clientId).next,
            }),
        );
      }
    }
  }

  #stream(clientId: string): Stream {
    let stream = this.streams.get(clientId);
    if (!stream) {
      stream = { next: 0, held: new Map(), written: [] };
      this.streams.set(clientId, stream);
    }
    return stream;
  }

  #acknowledge(line: Line, offset: number): void {
    if (!line.clientId || offset > line.sent) return;
    if (offset > line.acked) {
      line.acked = offset;
      line.probeWait = 1000;
    } else if (line.probeWait > 1000 && offset < line.sent) {
      line.sent = offset; // the answer to a probe: send again from there
      line.probeWait = 1000;
    }
    if (line.snapshot && offset >= line.snapshotAt) line.snapshot = undefined;
    this.#pump(line);
  }

  #pump(line: Line): void {
    if (!line.clientId) return;
    if (line.sent < this.log.length - this.buffer || (line.snapshot && line.sent < line.snapshotAt))
      this.#picture(line);
    while (line.sent < this.log.length && line.sent < line.acked + WINDOW) {
      const size = 1 + Math.floor(this.random() * 3000); // anywhere, through characters too
      const bytes = this.log.subarray(line.sent, Math.min(line.sent + size, line.acked + WINDOW));
      this.#push(line, { type: "output", epoch: this.epoch, offset: line.sent, ...encodePayload(bytes) });
      line.sent += bytes.length;
    }
    clearTimeout(line.probe);
    if (line.acked >= this.log.length) return;
    line.probe = setTimeout(() => {
      line.probeWait = Math.min(2 * line.probeWait, 30_000);
      this.#push(line, { type: "output", epoch: this.epoch, offset: line.sent, data: "" });
      this.#pump(line);
    }, line.probeWait);
  }

  #picture(line: Line): void {
    if (!line.snapshot) {
      const offset = this.log.length;
      const parts = 1 + Math.floor(this.random() * 4);
      const size = Math.ceil(offset / parts);
      line.snapshot = Array.from({ length: parts }, (_, part) => ({
        type: "snapshot" as const,
        epoch: this.epoch,
        offset,
        part,
        parts,
        cols: 80,
        rows: 24,
        gap: offset - line.sent,
        b64: Buffer.from(this.log.subarray(part * size, (part + 1) * size)).toString("base64"),
      }));
      line.snapshotAt = offset;
    }
    for (const part of line.snapshot) this.#push(line, part);
    line.sent = Math.max(line.sent, line.snapshotAt);
    line.acked = Math.max(line.acked, 0);
  }

  #sayExit(line: Line): void {
    if (this.exit) this.#push(line, { type: "exit", epoch: this.epoch, offset: this.log.length, ...this.exit });
  }
}
