// Starts the page.
import "@xterm/xterm/css/xterm.css";
import { App } from "./app";
import { FONT } from "./tab";
import { applyThemes } from "./themes";

applyThemes();
// The terminal measures its font once: it has to be there.
const fonts = Promise.all([document.fonts.load(`14px ${FONT}`), document.fonts.load(`bold 14px ${FONT}`)]);
await Promise.race([fonts, new Promise((resolve) => setTimeout(resolve, 1500))]);

const app = new App(document.getElementById("app") as HTMLElement);

/** For tests and for the curious: see “Reading the screen” in README.md. */
const inspect = {
  get terminal() {
    return app.active?.terminal;
  },
  get client() {
    return app.active?.client;
  },
  get tabs() {
    return app.tabs;
  },
  /** The visible rows, cell by cell, without the blanks at their ends. */
  screen(): string[] {
    const terminal = app.active?.terminal;
    if (!terminal) return [];
    const { active } = terminal.buffer;
    return Array.from(
      { length: terminal.rows },
      (_, row) =>
        active
          .getLine(active.baseY + row)
          ?.translateToString()
          .trimEnd() ?? "",
    );
  },
};
declare global {
  interface Window {
    __shellbridge: typeof inspect;
  }
}
window.__shellbridge = inspect;

await app.start();
