// Entry point of the page.
import "@xterm/xterm/css/xterm.css";
import { App } from "./app";
import { FONT } from "./tab";
import { applyThemes } from "./themes";

applyThemes();
// The terminal measures its font once, so the font must be loaded first. After 1.5 s, a fallback has to do.
const fonts = Promise.all([document.fonts.load(`14px ${FONT}`), document.fonts.load(`bold 14px ${FONT}`)]);
await Promise.race([fonts, new Promise((resolve) => setTimeout(resolve, 1500))]);

const app = new App(document.getElementById("app") as HTMLElement);

/** For tests and debugging: see “Reading the screen” in README.md. */
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
  /** The visible rows without trailing blanks. */
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
