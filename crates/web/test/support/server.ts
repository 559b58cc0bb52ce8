// A session and its shell behind a network that reorders, repeats and drops frames and cuts connections. Everything runs
// on the test's clock.
import type { Payload } from "../../src/protocol.gen";
import { type Event, type Peer, Session, type Settings, type Step } from "./session";
import type { FakeSocket } from "./socket";

export interface Faults {
  /** Share of frames that are delayed so long that later ones overtake them. */
  reorder: number;
  repeat: number;
  /**
   * Share of frames to the server, and of its disconnect events, that are lost. Pushes are not dropped: a push that fails
   * is sent again, and one that is lost is lost with its connection.
   */
  drop: number;
  /** Average life of a connection, in milliseconds; 0: unlimited. */
  cutEvery: number;
}

/** mulberry32, a small pseudo-random generator. */
export function seeded(seed: number): () => number {
  let a = seed >>> 0;
  return () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), 1 | a);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Delay, in milliseconds, before sockets close, so that pushes in flight arrive first. */
const FAREWELL = 500;

const bytesOf = ({ data, b64 }: Payload) => (b64 === undefined ? Buffer.from(data ?? "") : Buffer.from(b64, "base64"));

export class Server {
  /** Why the session ended, if it did. */
  over: string | undefined;
  #session = new Session();
  #started = Date.now();
  #step: Step | undefined;
  #sockets = new Map<string, FakeSocket>();
  #connections = 0;
  #printed: Buffer[] = [];
  #unread = Buffer.alloc(0);
  #exitCode: number | undefined;
  #typed = new Map<string, Buffer[]>();
  #timers = new Set<ReturnType<typeof setTimeout>>();
  #timeout: ReturnType<typeof setTimeout> | undefined;
  #shell: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly random: () => number,
    private readonly faults: Faults,
    settings: Settings,
  ) {
    this.#handle({ type: "start", started: this.#started, ...settings });
  }

  /** The shell prints; the session reads at its own pace. */
  print(text: string): void {
    const bytes = Buffer.from(text);
    this.#printed.push(bytes);
    this.#unread = Buffer.concat([this.#unread, bytes]);
    this.#wakeShell();
  }

  /** The shell exits once its output has been read. */
  exit(exitCode: number): void {
    this.#exitCode = exitCode;
    this.#wakeShell();
  }

  /** All output of the shell. */
  get output(): string {
    return Buffer.concat(this.#printed).toString();
  }

  /** The input of a client that the shell has read. */
  typed(clientId: string): string {
    return Buffer.concat(this.#typed.get(clientId) ?? []).toString();
  }

  /** Clients whose input the shell has read. */
  get typists(): string[] {
    return [...this.#typed.keys()];
  }

  /** Accepts a new socket. */
  accept = (socket: FakeSocket): void => {
    this.#after(5 + 20 * this.random(), () => {
      if (socket.readyState !== 0) return;
      const peer: Peer = { id: `c${String(++this.#connections).padStart(4, "0")}`, connectedAt: Date.now() };
      this.#sockets.set(peer.id, socket);
      this.#handle({ type: "connect", ...peer });
      // A frame may arrive after its connection has closed: each frame is a separate Lambda invocation.
      socket.onSend = (_, text) => this.#carry(true, () => this.#handle({ type: "frame", peer, text }));
      socket.onClientClose = () => this.#gone(peer.id);
      socket.open();
      const { cutEvery } = this.faults;
      if (cutEvery > 0) this.#after(cutEvery * (0.3 + this.random()), () => this.#cut(peer.id));
    });
  };

  stop(): void {
    for (const timer of this.#timers) clearTimeout(timer);
    clearTimeout(this.#timeout);
    clearTimeout(this.#shell);
  }

  #after(ms: number, then: () => void): void {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      then();
    }, ms);
    this.#timers.add(timer);
  }

  /** Sends through the network. `droppable` only where the contract allows a loss. */
  #carry(droppable: boolean, then: () => void): void {
    const { reorder, repeat, drop } = this.faults;
    if (droppable && this.random() < drop) return;
    const copies = this.random() < repeat ? 2 : 1;
    for (let i = 0; i < copies; i++) this.#after(2 + (this.random() < reorder ? 400 * this.random() : 0), then);
  }

  #cut(id: string): void {
    const socket = this.#sockets.get(id);
    this.#gone(id);
    socket?.cut(this.random() < 0.5 ? 1006 : 1001);
  }

  #gone(id: string): void {
    if (this.#sockets.delete(id)) this.#carry(true, () => this.#handle({ type: "gone", id }));
  }

  #handle(event: Event): void {
    if (this.over) return;
    this.#step = this.#session.handle(Date.now() - this.#started, event);
    for (const action of this.#step.actions) {
      switch (action.type) {
        case "push":
          this.#push(action.to, action.text, action.push);
          break;
        case "close":
          if (action.last) this.#push(action.id, action.last, null);
          this.#after(FAREWELL, () => this.#cut(action.id));
          break;
        case "check":
          this.#after(2, () => this.#handle({ type: "checked", id: action.id, exists: this.#sockets.has(action.id) }));
          break;
        case "end":
          this.over = action.why;
          this.#after(FAREWELL, () => {
            for (const id of [...this.#sockets.keys()]) this.#cut(id);
          });
      }
    }
    clearTimeout(this.#timeout);
    const { timeout } = this.#step;
    if (timeout !== null && !this.over) {
      const wait = Math.max(0, this.#started + timeout - Date.now());
      this.#timeout = setTimeout(() => this.#handle({ type: "timeout" }), wait);
    }
    this.#wakeShell();
  }

  /** A push counts as delivered once API Gateway has it, even if the connection then breaks. */
  #push(to: string, text: string, push: number | null): void {
    this.#after(1, () => {
      const socket = this.#sockets.get(to);
      if (socket) this.#carry(false, () => socket.deliverText(text));
      if (push !== null) this.#handle({ type: "pushed", push, delivered: socket !== undefined });
    });
  }

  #wakeShell(): void {
    const reads = this.#step?.write && this.#exitCode === undefined;
    const prints = this.#unread.length > 0 ? this.#step?.allowance : this.#exitCode !== undefined;
    if (reads || prints) this.#shell ??= setTimeout(() => this.#runShell(), 1);
  }

  /** The shell reads some input, and the session reads some output, each cut at a random byte. */
  #runShell(): void {
    this.#shell = undefined;
    const some = (most: number) => 1 + Math.floor(this.random() * most);
    const write = this.#step?.write;
    if (write && this.#exitCode === undefined) {
      const { clientId, bytes } = write;
      const read = bytesOf(bytes);
      const count = some(read.length);
      this.#typed.set(clientId, [...(this.#typed.get(clientId) ?? []), read.subarray(0, count)]);
      this.#handle({ type: "written", clientId, count });
    }
    const count = Math.min(this.#unread.length, some(3000), this.#step?.allowance ?? 0);
    if (count > 0) {
      const bytes = { b64: this.#unread.subarray(0, count).toString("base64") };
      this.#unread = this.#unread.subarray(count);
      this.#handle({ type: "output", bytes });
    }
    if (this.#exitCode !== undefined && this.#unread.length === 0) {
      const exitCode = this.#exitCode;
      this.#exitCode = undefined;
      this.#handle({ type: "exit", exitCode });
    }
  }
}
