// What a terminal shows of some output, as the page has it: xterm.js with the widths of Unicode 11.
import { Unicode11Addon } from "@xterm/addon-unicode11";
import { Terminal } from "@xterm/xterm";
import { vi } from "vitest";

/** All rows, scrollback and screen, then where the cursor is. */
export async function rows(output: string): Promise<(string | undefined)[]> {
  vi.useRealTimers(); // xterm.js parses behind timers
  const terminal = new Terminal({ cols: 80, rows: 24, scrollback: 1_000_000, allowProposedApi: true });
  terminal.loadAddon(new Unicode11Addon());
  terminal.unicode.activeVersion = "11";
  await new Promise<void>((parsed) => terminal.write(output, parsed));
  const { active } = terminal.buffer;
  // A snapshot fills lines up with blanks.
  const all = Array.from({ length: active.length }, (_, y) => active.getLine(y)?.translateToString().trimEnd());
  all.push(`cursor at ${active.cursorX},${active.cursorY}`);
  terminal.dispose();
  return all;
}
