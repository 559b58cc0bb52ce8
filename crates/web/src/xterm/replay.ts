// Mutes the terminal's reports while the server replays old output. After a reload the replay contains every query that
// programs once sent (device attributes, cursor position, colours). The terminal reported then; a second report would
// be typed into the shell.
//
// A tab that reloads knows the exact end of the old output: it keeps the offset in sessionStorage. A tab that joins an
// older shell takes everything up to the first pause for old.
import type { IDisposable, Terminal } from "@xterm/xterm";
import type { TerminalClient } from "../client/index.js";

/** Most output that the server replays, in bytes: OUTPUT_BUFFER, 1 MiB by default. */
const OUTPUT_BUFFER_MAX = 1024 * 1024;
/** Age, in milliseconds, below which a shell may still wait for reports when a new tab joins it. */
const YOUNG = 5_000;
/** Pause, in milliseconds, that ends a replay of unknown length. */
const PAUSE = 200;

export class ReplayMute {
  /** Whether old output is being replayed. */
  active = false;
  #begun = false;
  #serverClock: number | undefined;
  #epoch = 0;
  #oldEnd: number | undefined; // end offset of the old output, if known
  #parsed = 0; // offset of the output parsed so far
  #pauseTimer: ReturnType<typeof setTimeout> | undefined;
  #handlers: IDisposable[] = [];
  #unsubscribe: () => void;

  constructor(
    private readonly client: TerminalClient,
    terminal: Terminal,
  ) {
    this.#unsubscribe = client.on("frame", (frame) => {
      if (frame.type === "connected") this.#serverClock = frame.timestamp;
      if (frame.type !== "attached" && frame.type !== "output") return; // either may come first
      this.#epoch = frame.epoch;
      if (!this.#begun) this.#begin(frame.epoch, frame.type === "attached" && frame.gap !== undefined);
      this.#begun = true; // later frames continue where this terminal is
    });
    addEventListener("pagehide", this.#save);
    const mute = () => this.active;
    const { parser } = terminal;
    for (const id of [
      { final: "c" }, // device attributes, three kinds
      { prefix: ">", final: "c" },
      { prefix: "=", final: "c" },
      { final: "n" }, // status and cursor position
      { prefix: "?", final: "n" },
      { intermediates: "$", final: "p" }, // modes
      { prefix: "?", intermediates: "$", final: "p" },
      { prefix: ">", final: "q" }, // version
      { final: "t" }, // window
      { prefix: "?", final: "u" }, // keyboard protocol
    ]) {
      this.#handlers.push(parser.registerCsiHandler(id, mute));
    }
    const query = (data: string) => this.active && data.includes("?");
    for (const osc of [4, 10, 11, 12, 52]) this.#handlers.push(parser.registerOscHandler(osc, query));
    this.#handlers.push(parser.registerDcsHandler({ intermediates: "$", final: "q" }, mute));
  }

  /** Counts the old bytes at the start of a chunk that ends at offset `end`. */
  countOld(length: number, end: number): number {
    if (!this.active) return 0;
    const oldEnd = this.#oldEnd ?? OUTPUT_BUFFER_MAX;
    return Math.max(0, Math.min(length, length - (end - oldEnd)));
  }

  /** The terminal has parsed everything before `offset`. */
  parsed(offset: number): void {
    this.#parsed = offset;
    if (!this.active) return;
    if (this.#oldEnd === undefined) this.#awaitPause();
    else if (offset >= this.#oldEnd) this.#end();
  }

  /** A snapshot contains no queries, and the output after it is new to every tab. */
  handleSnapshot(): void {
    if (this.#oldEnd === undefined) this.#end();
  }

  dispose(): void {
    this.#unsubscribe();
    this.#end();
    removeEventListener("pagehide", this.#save);
    for (const handler of this.#handlers) handler.dispose();
  }

  get #key(): string {
    return `shellbridge.seen.${this.client.sessionId}`;
  }

  #save = (): void => {
    try {
      sessionStorage.setItem(this.#key, `${this.#epoch}:${this.#parsed}`);
    } catch {
      // Storage is denied: the next page applies the rule for tabs that join.
    }
  };

  #begin(epoch: number, gap: boolean): void {
    let saved: string | null = null;
    try {
      saved = sessionStorage.getItem(this.#key);
    } catch {
      // Storage is denied.
    }
    const [savedEpoch, offset] = (saved ?? "").split(":").map(Number);
    if (savedEpoch === epoch) this.#oldEnd = offset;
    else if (gap || (this.#serverClock ?? Date.now()) - epoch < YOUNG) return;
    this.active = this.#oldEnd !== 0;
    if (this.#oldEnd === undefined) this.#awaitPause();
  }

  #awaitPause(): void {
    clearTimeout(this.#pauseTimer);
    this.#pauseTimer = setTimeout(() => this.#end(), PAUSE);
  }

  #end(): void {
    clearTimeout(this.#pauseTimer);
    this.active = false;
  }
}
