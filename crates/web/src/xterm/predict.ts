// Predicted echo: shows what was typed, underlined, before the shell does. Off unless asked for.
//
// Nothing is written to the terminal: predictions are an overlay, gone as soon as the truth is there, and never
// older than one round trip. As in mosh (Winstein & Balakrishnan, USENIX ATC 2012) a line's first characters are
// only guessed at in secret, until one of them was echoed: a password prompt echoes none, so nothing ever shows.
import type { Terminal } from "@xterm/xterm";
import type { TerminalClient } from "../client/index.js";

/** Below this round trip, in milliseconds, the shell's own echo is soon enough. */
const SLOW = 60;

interface Guess {
  char: string;
  /** Absolute line in the buffer, and column. */
  line: number;
  column: number;
  at: number;
}

export class Predictor {
  enabled = false;
  #guesses: Guess[] = [];
  #echoes = false; // whether the shell echoed something since the last key that was no character
  #roundTrip = 0;
  #overlay: HTMLElement | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #off: (() => void)[];

  constructor(
    client: TerminalClient,
    private readonly terminal: Terminal,
  ) {
    const parsed = terminal.onWriteParsed(() => this.#compare());
    const scrolled = terminal.onScroll(() => this.#draw());
    const resized = terminal.onResize(() => this.clear());
    this.#off = [
      client.on("roundTrip", (ms) => {
        this.#roundTrip = ms;
      }),
      () => parsed.dispose(),
      () => scrolled.dispose(),
      () => resized.dispose(),
    ];
  }

  /** What the user typed, as it goes out. */
  typed(text: string): void {
    const buffer = this.terminal.buffer.active;
    if (!this.enabled || this.#roundTrip < SLOW || buffer.type === "alternate") return this.clear();
    if (!/^[\x20-\x7e]$/.test(text)) {
      // Enter, arrows, Tab, a paste: what they do is the shell's business.
      this.#echoes = false;
      return this.clear();
    }
    const last = this.#guesses.at(-1);
    const line = last ? last.line : buffer.baseY + buffer.cursorY;
    const column = last ? last.column + 1 : buffer.cursorX;
    if (column >= this.terminal.cols - 1) return this.clear(); // how it wraps is the shell's business
    this.#guesses.push({ char: text, line, column, at: performance.now() });
    this.#draw();
  }

  clear(): void {
    this.#guesses = [];
    this.#draw();
  }

  dispose(): void {
    for (const off of this.#off) off();
    clearTimeout(this.#timer);
    this.#overlay?.remove();
  }

  /** The screen changed: guesses that came true go, and one that did not takes all with it. */
  #compare(): void {
    const buffer = this.terminal.buffer.active;
    if (buffer.type === "alternate") return this.clear();
    while (this.#guesses.length > 0) {
      const guess = this.#guesses[0] as Guess;
      const cursor = { line: buffer.baseY + buffer.cursorY, column: buffer.cursorX };
      if (cursor.line !== guess.line || cursor.column <= guess.column) {
        if (cursor.line !== guess.line || cursor.column < guess.column) this.clear();
        break;
      }
      if (buffer.getLine(guess.line)?.getCell(guess.column)?.getChars() !== guess.char) {
        this.#echoes = false;
        this.clear();
        break;
      }
      this.#echoes = true;
      this.#guesses.shift();
    }
    this.#draw();
  }

  #draw(): void {
    clearTimeout(this.#timer);
    const screen = this.terminal.element?.querySelector<HTMLElement>(".xterm-screen");
    const buffer = this.terminal.buffer.active;
    const oldest = this.#guesses[0];
    if (oldest) {
      // Wrong for at most one round trip, and a little for the server's own time.
      const left = oldest.at + 1.25 * this.#roundTrip + 50 - performance.now();
      this.#timer = setTimeout(
        () => {
          this.#echoes = false;
          this.clear();
        },
        Math.max(0, left),
      );
    }
    if (!screen || !this.#echoes || !oldest) {
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
      ...this.#guesses.map((guess) => {
        const cell = document.createElement("span");
        cell.textContent = guess.char;
        cell.style.cssText = `position:absolute;left:${guess.column * width}px;top:${(guess.line - buffer.viewportY) * height}px;width:${width}px;height:${height}px;line-height:${height}px;text-decoration:underline;background:${theme?.background ?? "none"}`;
        return cell;
      }),
    );
  }
}

const size = ({ cols, rows }: Terminal) => ({ cols, rows });
