// Renders output as the page does: xterm.js with Unicode 11 widths.
import { Unicode11Addon } from "@xterm/addon-unicode11";
import { Terminal } from "@xterm/xterm";
import { vi } from "vitest";

/** The rows of scrollback and screen, then the position of the cursor. */
export async function rows(output: string): Promise<(string | undefined)[]> {
  vi.useRealTimers(); // xterm.js parses in timers
  const terminal = new Terminal({ cols: 80, rows: 24, scrollback: 1_000_000, allowProposedApi: true });
  terminal.loadAddon(new Unicode11Addon());
  terminal.unicode.activeVersion = "11";
  await new Promise<void>((parsed) => terminal.write(output, parsed));
  const { active } = terminal.buffer;
  // Snapshots pad lines with blanks.
  const all = Array.from({ length: active.length }, (_, y) => active.getLine(y)?.translateToString().trimEnd());
  all.push(`cursor at ${active.cursorX},${active.cursorY}`);
  terminal.dispose();
  return all;
}
