// Keeps a terminal from answering old questions. After a reload the session's output comes again, and with it every
// query that programs once sent (device attributes, cursor position, colours). They were answered then; a second
// answer would be typed into the shell.
import type { IDisposable, Terminal } from "@xterm/xterm";
import type { TerminalClient } from "../client";
import { OUTPUT_BUFFER_MAX } from "./limits";

/** A shell this young may still wait for its answers. */
const YOUNG = 5_000;
/** The replay is over when nothing came for so long. */
const QUIET = 200;

export class ReplayMute {
  /** Whether old output is coming in. */
  active = false;
  #seen = false;
  #serverClock: number | undefined;
  #bytes = 0;
  #quiet: ReturnType<typeof setTimeout> | undefined;
  #handlers: IDisposable[] = [];
  #off: () => void;

  constructor(client: TerminalClient, terminal: Terminal) {
    this.#off = client.on("frame", (frame) => {
      if (frame.type === "connected") this.#serverClock = frame.timestamp;
      if (frame.type !== "attached" || this.#seen) return;
      this.#seen = true; // Later ones go on where this terminal is.
      if (frame.outputOffset === 0 && frame.gap === undefined) this.#begin(frame.epoch);
    });
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

  received(bytes: number): void {
    if (!this.active) return;
    this.#bytes += bytes;
    if (this.#bytes > OUTPUT_BUFFER_MAX) this.#end();
    else this.#wait();
  }

  dispose(): void {
    this.#off();
    this.#end();
    for (const handler of this.#handlers) handler.dispose();
  }

  #begin(epoch: number): void {
    if ((this.#serverClock ?? Date.now()) - epoch < YOUNG) return;
    this.active = true;
    this.#wait();
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
