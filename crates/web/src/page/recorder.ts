// Records the terminal's output as asciicast v2 (https://docs.asciinema.org/manual/asciicast/v2/).
import type { TerminalClient } from "../client";

/** Most text kept, in UTF-16 units; the oldest events are dropped first. */
const TEXT_MAX = 16 * 1024 * 1024;

export class Recorder {
  #start = performance.now();
  #startedAt = Date.now();
  #events: { at: number; code: "o" | "r"; text: string }[] = [];
  #size = 0;
  #decoder = new TextDecoder();
  #unsubscribe: (() => void)[];
  #initialSize: { cols: number; rows: number } | undefined;

  constructor(client: TerminalClient) {
    this.#unsubscribe = [
      client.on("output", (bytes) => this.#add("o", this.#decoder.decode(bytes, { stream: true }))),
      client.on("size", ({ cols, rows }) => {
        const lastSize =
          this.#events.findLast((event) => event.code === "r")?.text ??
          `${this.#initialSize?.cols}x${this.#initialSize?.rows}`;
        if (!this.#initialSize) this.#initialSize = { cols, rows };
        else if (lastSize !== `${cols}x${rows}`) this.#add("r", `${cols}x${rows}`);
      }),
    ];
  }

  /** The recording as a file. */
  cast(title: string): string {
    const from = this.#events[0]?.at ?? 0;
    const header = {
      version: 2,
      width: this.#initialSize?.cols ?? 80,
      height: this.#initialSize?.rows ?? 24,
      timestamp: Math.floor(this.#startedAt / 1000),
      title,
      env: { TERM: "xterm-256color" },
    };
    const lines = this.#events.map(({ at, code, text }) =>
      JSON.stringify([Number((at - from).toFixed(6)), code, text]),
    );
    return `${[JSON.stringify(header), ...lines].join("\n")}\n`;
  }

  dispose(): void {
    for (const off of this.#unsubscribe) off();
  }

  #add(code: "o" | "r", text: string): void {
    if (!text) return;
    this.#events.push({ at: (performance.now() - this.#start) / 1000, code, text });
    this.#size += text.length;
    let drop = 0;
    while (this.#size > TEXT_MAX && drop < this.#events.length) this.#size -= this.#events[drop++]?.text.length ?? 0;
    if (drop > 0) this.#events.splice(0, drop);
  }
}
