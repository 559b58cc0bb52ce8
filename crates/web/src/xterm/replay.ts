// Keeps a terminal from answering old questions. After a reload the session's output comes again, and with it every
// query that programs once sent (device attributes, cursor position, colours). They were answered then; a second
// answer would be typed into the shell.
//
// What this tab saw before the reload is known to the byte: its offset is kept in sessionStorage. In a tab that comes
// to an older shell, what comes in one go at the start counts as old.
import type { IDisposable, Terminal } from "@xterm/xterm";
import type { TerminalClient } from "../client/index.js";
import { OUTPUT_BUFFER_MAX } from "./limits.js";

/** A shell this young, and not seen before, may still wait for its answers. */
const YOUNG = 5_000;
/** Without a known end, the replay is over when nothing came for so long. */
const QUIET = 200;

export class ReplayMute {
  /** Whether old output is coming in. */
  active = false;
  #seen = false;
  #serverClock: number | undefined;
  #epoch = 0;
  #until: number | undefined; // where old output ends, if that is known
  #parsed = 0;
  #quiet: ReturnType<typeof setTimeout> | undefined;
  #handlers: IDisposable[] = [];
  #off: () => void;

  constructor(
    private readonly client: TerminalClient,
    terminal: Terminal,
  ) {
    this.#off = client.on("frame", (frame) => {
      if (frame.type === "connected") this.#serverClock = frame.timestamp;
      if (frame.type !== "attached" && frame.type !== "output") return; // either may be first
      this.#epoch = frame.epoch;
      if (!this.#seen) this.#begin(frame.epoch, frame.type === "attached" && frame.gap !== undefined);
      this.#seen = true; // Later ones go on where this terminal is.
    });
    addEventListener("pagehide", this.#remember);
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
    const question = (data: string) => this.active && data.includes("?");
    for (const osc of [4, 10, 11, 12, 52]) this.#handlers.push(parser.registerOscHandler(osc, question));
    this.#handlers.push(parser.registerDcsHandler({ intermediates: "$", final: "q" }, mute));
  }

  /** How many of these bytes, which end at `end`, are old. */
  old(length: number, end: number): number {
    if (!this.active) return 0;
    const until = this.#until ?? OUTPUT_BUFFER_MAX;
    return Math.max(0, Math.min(length, length - (end - until)));
  }

  /** Everything before `offset` went through the parser. */
  parsed(offset: number): void {
    this.#parsed = offset;
    if (!this.active) return;
    if (this.#until === undefined) this.#wait();
    else if (offset >= this.#until) this.#end();
  }

  /** A picture of the screen has no questions, and what follows it was seen by nobody. */
  pictured(): void {
    if (this.#until === undefined) this.#end();
  }

  dispose(): void {
    this.#off();
    this.#end();
    removeEventListener("pagehide", this.#remember);
    for (const handler of this.#handlers) handler.dispose();
  }

  get #key(): string {
    return `shellbridge.seen.${this.client.sessionId}`;
  }

  #remember = (): void => {
    try {
      sessionStorage.setItem(this.#key, `${this.#epoch}:${this.#parsed}`);
    } catch {
      // Then the rule for tabs that come later holds.
    }
  };

  #begin(epoch: number, gap: boolean): void {
    let stored: string | null = null;
    try {
      stored = sessionStorage.getItem(this.#key);
    } catch {
      // As above.
    }
    const [knownEpoch, offset] = (stored ?? "").split(":").map(Number);
    if (knownEpoch === epoch) this.#until = offset;
    else if (gap || (this.#serverClock ?? Date.now()) - epoch < YOUNG) return;
    this.active = this.#until !== 0;
    if (this.#until === undefined) this.#wait();
  }

  #wait(): void {
    clearTimeout(this.#quiet);
    this.#quiet = setTimeout(() => this.#end(), QUIET);
  }

  #end(): void {
    clearTimeout(this.#quiet);
    this.active = false;
  }
}
