// On-screen keys that phone keyboards lack: Esc, Tab, Ctrl, Alt, arrows and a few characters.
import { h } from "./dom";
import type { Tab } from "./tab";

const KEYS: [string, string, string?][] = [
  ["esc", "\x1b", "Escape"],
  ["tab", "\t", "Tab"],
  ["ctrl", "", "Control, for the next key"],
  ["alt", "", "Alt, for the next key"],
  ["↑", "A", "Up"],
  ["↓", "B", "Down"],
  ["←", "D", "Left"],
  ["→", "C", "Right"],
  ["/", "/"],
  ["|", "|"],
  ["-", "-"],
  ["~", "~"],
];

export class TouchKeys {
  readonly element = h("div", { class: "touch", attrs: { role: "toolbar", "aria-label": "Keys" } });
  #held = { ctrl: false, alt: false };
  #buttons = new Map<string, HTMLButtonElement>();

  constructor(private readonly current: () => Tab | undefined) {
    for (const [face, text, label = face] of KEYS) {
      const button = h("button", { type: "button", tabIndex: -1, attrs: { "aria-label": label } }, face);
      // A click would move the focus, which closes the phone's keyboard.
      button.onpointerdown = (event) => {
        event.preventDefault();
        this.#press(face, text);
      };
      // Screen readers click without a pointer event.
      button.onclick = (event) => event.detail === 0 && this.#press(face, text);
      this.#buttons.set(face, button);
      this.element.append(button);
    }
  }

  /** Applies a held Ctrl or Alt to the typed text, and releases it. */
  translate(text: string): string {
    const { ctrl, alt } = this.#held;
    if ((!ctrl && !alt) || [...text].length !== 1) return text;
    this.#hold("ctrl", false);
    this.#hold("alt", false);
    const upper = text.toUpperCase().charCodeAt(0);
    const changed = ctrl && upper >= 0x40 && upper < 0x60 ? String.fromCharCode(upper - 0x40) : text;
    return alt ? `\x1b${changed}` : changed;
  }

  #press(face: string, text: string): void {
    const tab = this.current();
    if (!tab) return;
    if (face === "ctrl" || face === "alt") return this.#hold(face, !this.#held[face]);
    const arrow = /^[A-D]$/.test(text);
    const application = tab.terminal.modes.applicationCursorKeysMode;
    tab.terminal.input(arrow ? `\x1b${application ? "O" : "["}${text}` : text);
    tab.terminal.focus();
  }

  #hold(key: "ctrl" | "alt", on: boolean): void {
    this.#held[key] = on;
    this.#buttons.get(key)?.setAttribute("aria-pressed", String(on));
  }
}
