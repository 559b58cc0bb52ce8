// After a gap, the screen equals that of a terminal that received everything, cell by cell.
import type { Page } from "@playwright/test";
import { expect, Shell, test } from "./support/test";

/** More output than the backend keeps, so that a client that was away needs a snapshot. */
const FLOOD = "seq 1 250000";

/** The visible state of a terminal: each cell with its attributes, the cursor, the screen, the modes. */
function terminalState(page: Page) {
  return page.evaluate(() => {
    const terminal = window.__shellbridge.terminal;
    if (!terminal) return undefined;
    const { active } = terminal.buffer;
    const rows = Array.from({ length: terminal.rows }, (_, row) => {
      const line = active.getLine(active.baseY + row);
      return Array.from({ length: terminal.cols }, (_, column) => {
        const cell = line?.getCell(column);
        if (!cell) return "";
        const colours = [cell.getFgColorMode(), cell.getFgColor(), cell.getBgColorMode(), cell.getBgColor()];
        const flags = [cell.isBold(), cell.isDim(), cell.isItalic(), cell.isUnderline(), cell.isInverse()];
        return [cell.getChars() || " ", cell.getWidth(), ...colours, ...flags.map(Boolean).map(Number)].join();
      });
    });
    const modes = terminal.modes;
    return {
      rows,
      cursor: [active.cursorX, active.cursorY],
      screen: active.type,
      modes: [modes.applicationCursorKeysMode, modes.bracketedPasteMode, modes.mouseTrackingMode, modes.originMode],
    };
  });
}

/** The newest lines of the scrollback. */
const scrollback = (page: Page) =>
  page.evaluate(() => {
    const buffer = window.__shellbridge.terminal?.buffer.normal;
    if (!buffer) return [];
    const from = Math.max(0, buffer.baseY - 900);
    return Array.from({ length: buffer.baseY - from }, (_, n) => buffer.getLine(from + n)?.translateToString(true));
  });

const programs: [name: string, start: string, shown: string | RegExp, leave: string[]][] = [
  ["vi", "printf 'wide 漢字 and é\\n%.0s' 1 2 3 > f; vi f", "wide 漢字", ["Escape", ":", "q", "!", "Enter"]],
  [
    "a full-screen redraw in colour",
    String.raw`printf '\e[?1049h\e[?25l\e[?1000h\e[2J'; for r in 1 2 3 4 5 6 7 8; do printf "\e[$r;$((r*3))H\e[3${"$"}{r}m\e[4$((7-r%7));1mrow $r 漢\e[m"; done; printf '\e[5;20r\e[10;4Hend'; read -s -n 1; printf '\e[r\e[?1000l\e[?25h\e[?1049l'`,
    "end",
    ["q"],
  ],
  [
    "the prompt after coloured output",
    "printf '\\e[1;38;5;208mbright\\e[0;7m inverse\\e[m plain 漢字\\n'",
    "bright",
    [],
  ],
];

for (const [name, start, shown, leave] of programs) {
  test(`a snapshot of ${name} equals the original screen`, async ({ browser, page, shell, stack }) => {
    const { hash } = await shell.open();
    const { width, height } = page.viewportSize() ?? { width: 1100, height: 700 };
    const context = await browser.newContext({ viewport: { width, height }, colorScheme: "dark" });
    const away = await context.newPage();
    const other = new Shell(away, stack);
    await away.goto(`${stack.page}/${hash}`);
    await other.connected();
    await away.goto("about:blank");

    await shell.run(`${FLOOD}; clear; echo flooded`);
    await shell.shows(/^flooded$/m);
    await shell.run(start);
    await shell.shows(shown);
    await away.goto(`${stack.page}/${hash}`);
    await other.shows(shown);
    const gap = () => away.evaluate(() => window.__shellbridge.client?.diagnostics.outputLost ?? 0);
    await expect.poll(gap).toBeGreaterThan(0);
    await expect.poll(() => terminalState(away)).toEqual(await terminalState(page));
    await other.screenshot(`gap-${name.split(" ")[0]}`);
    // The snapshot includes the scrollback.
    const above = await scrollback(page);
    expect((await scrollback(away)).slice(-above.length)).toEqual(above.slice(-1000));

    for (const key of leave) await page.keyboard.press(key);
    await shell.prompt();
    await expect.poll(() => terminalState(away)).toEqual(await terminalState(page));
    await context.close();
  });
}
