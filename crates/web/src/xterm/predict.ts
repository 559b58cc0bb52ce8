// Predicted echo: shows typed characters, underlined, before the shell echoes them. Off by default.
//
// Predictions are an overlay and never reach the terminal's buffer. They disappear when the echo arrives, and after one
// round trip at the latest. As in mosh (Winstein & Balakrishnan, USENIX ATC 2012), they stay hidden until the shell has
// echoed one of the line's characters: a password prompt echoes none, so a password is never shown.
import type { Terminal } from "@xterm/xterm";
import type { TerminalClient } from "../client/index.js";

/** Shortest round trip, in milliseconds, at which prediction helps. */
const SLOW = 60;

interface Prediction {
  char: string;
  /** Absolute line in the buffer, and column. */
  line: number;
  column: number;
  at: number;
}

export class Predictor {
  enabled = false;
  #predictions: Prediction[] = [];
  #echoing = false; // whether the shell has echoed a character since the last control key
  #roundTrip = 0;
  #overlay: HTMLElement | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #unsubscribe: (() => void)[];

  constructor(
    client: TerminalClient,
    private readonly terminal: Terminal,
  ) {
    const parsed = terminal.onWriteParsed(() => this.#verify());
    const scrolled = terminal.onScroll(() => this.#draw());
    const resized = terminal.onResize(() => this.clear());
    this.#unsubscribe = [
      client.on("roundTrip", (ms) => {
        this.#roundTrip = ms;
      }),
      () => parsed.dispose(),
      () => scrolled.dispose(),
      () => resized.dispose(),
    ];
  }

  /** Call with each text that is sent. */
  typed(text: string): void {
    const buffer = this.terminal.buffer.active;
    if (!this.enabled || this.#roundTrip < SLOW || buffer.type === "alternate") return this.clear();
    if (!/^[\x20-\x7e]$/.test(text)) {
      // The effect of Enter, arrows, Tab or a paste cannot be predicted.
      this.#echoing = false;
      return this.clear();
    }
    const last = this.#predictions.at(-1);
    const line = last ? last.line : buffer.baseY + buffer.cursorY;
    const column = last ? last.column + 1 : buffer.cursorX;
    if (column >= this.terminal.cols - 1) return this.clear(); // nor can line wrapping
    this.#predictions.push({ char: text, line, column, at: performance.now() });
    this.#draw();
  }

  clear(): void {
    this.#predictions = [];
    this.#draw();
  }

  dispose(): void {
    for (const off of this.#unsubscribe) off();
    clearTimeout(this.#timer);
    this.#overlay?.remove();
  }

  /** After a change of the screen: removes confirmed predictions, and all of them if one was wrong. */
  #verify(): void {
    const buffer = this.terminal.buffer.active;
    if (buffer.type === "alternate") return this.clear();
    while (this.#predictions.length > 0) {
      const prediction = this.#predictions[0] as Prediction;
      const cursor = { line: buffer.baseY + buffer.cursorY, column: buffer.cursorX };
      if (cursor.line !== prediction.line || cursor.column <= prediction.column) {
        if (cursor.line !== prediction.line || cursor.column < prediction.column) this.clear();
        break;
      }
      if (buffer.getLine(prediction.line)?.getCell(prediction.column)?.getChars() !== prediction.char) {
        this.#echoing = false;
        this.clear();
        break;
      }
      this.#echoing = true;
      this.#predictions.shift();
    }
    this.#draw();
  }

  #draw(): void {
    clearTimeout(this.#timer);
    const screen = this.terminal.element?.querySelector<HTMLElement>(".xterm-screen");
    const buffer = this.terminal.buffer.active;
    const oldest = this.#predictions[0];
    if (oldest) {
      // A wrong prediction lasts one round trip, with an allowance for the server's processing.
      const left = oldest.at + 1.25 * this.#roundTrip + 50 - performance.now();
      this.#timer = setTimeout(
        () => {
          this.#echoing = false;
          this.clear();
        },
        Math.max(0, left),
      );
    }
    if (!screen || !this.#echoing || !oldest) {
      this.#overlay?.replaceChildren();
      return;
    }
    if (!this.#overlay) {
      this.#overlay = document.createElement("div");
      this.#overlay.className = "shellbridge-predicted";
      this.#overlay.setAttribute("aria-hidden", "true");
    }
    const { fontFamily, fontSize, theme, cols, rows } = { ...this.terminal.options, ...size(this.terminal) };
    const overlay = this.#overlay;
    overlay.style.cssText = `position:absolute;inset:0;pointer-events:none;z-index:5;font:${fontSize}px ${fontFamily};color:${theme?.foreground ?? "inherit"}`;
    if (overlay.parentElement !== screen) screen.append(overlay);
    const width = screen.clientWidth / cols;
    const height = screen.clientHeight / rows;
    overlay.replaceChildren(
      ...this.#predictions.map((prediction) => {
        const cell = document.createElement("span");
        cell.textContent = prediction.char;
        cell.style.cssText = `position:absolute;left:${prediction.column * width}px;top:${(prediction.line - buffer.viewportY) * height}px;width:${width}px;height:${height}px;line-height:${height}px;text-decoration:underline;background:${theme?.background ?? "none"}`;
        return cell;
      }),
    );
  }
}

const size = ({ cols, rows }: Terminal) => ({ cols, rows });
