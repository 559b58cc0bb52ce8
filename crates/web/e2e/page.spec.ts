// The page around the terminal: status line, panels, menu, tabs.
import { readFileSync } from "node:fs";
import { serious } from "./support/axe";
import { expect, Shell, test } from "./support/test";

test("the status line: connection, round trip, time left, extend", async ({ shell, page }) => {
  await shell.open({ ttlSeconds: 300 });
  const status = page.locator(".status");
  await expect(status.locator(".state")).toHaveText("Connected");
  await expect(status.locator(".trip")).toHaveText(/^\d+ ms$/);
  await expect(status.locator(".left")).toHaveText(/^4:\d\d left$/);
  await expect(status).toHaveAttribute("data-time", "warn");
  await status.getByRole("button", { name: "Extend" }).click();
  await expect(status.locator(".left")).toHaveText(/^1:0\d:\d\d left$/);
  await shell.connected();
  await shell.run("echo $((6*7))");
  await shell.shows(/^42$/m);
});

test("diagnostics, and a report without the token", async ({ shell, page }) => {
  const { token } = await shell.open();
  await page.locator(".connection").click();
  const panel = page.getByRole("complementary", { name: "Diagnostics" });
  await expect(panel.getByText("Round trip")).toBeVisible();
  await shell.screenshot("diagnostics");
  await panel.getByRole("button", { name: "Copy report" }).click();
  await expect(panel.getByText("Copied")).toBeVisible();
  const report = await page.evaluate(() => navigator.clipboard.readText());
  expect(report).toContain("State: Connected");
  expect(report).not.toContain(token);
  await page.keyboard.press("Escape");
  await expect(panel).toBeHidden();
  await shell.run("echo typed on");
  await shell.shows(/^typed on$/m);
});

test("commands run beside the shell, with progress, exit code and output", async ({ shell, page }) => {
  await shell.open();
  await page.getByRole("button", { name: "Run a command" }).click();
  const panel = page.getByRole("complementary", { name: "Run a command" });
  const run = async (command: string) => {
    await panel.getByLabel("Command").fill(command);
    await page.keyboard.press("Enter");
  };
  await run("cd /tmp && echo out; echo err >&2; false");
  await expect(panel.locator(".run").first()).toContainText(/exit 1, .*out\nerr/s);
  await run("pwd");
  await expect(panel.locator(".run").first()).toContainText(/exit 0, .*\/tmp/s);
  await run("sleep 2; echo slept");
  await expect(panel.locator(".run").first()).toContainText(/running, 0:0\d/);
  await expect(panel.locator(".run").first().getByRole("progressbar")).toBeVisible();
  await shell.screenshot("command");
  await expect(panel.locator(".run").first()).toContainText(/exit 0, .*slept/s);
});

test("a shared link shows the terminal and is view-only", async ({ shell, page, context, stack }) => {
  await shell.open();
  await shell.run("echo to be seen");
  await shell.shows(/^to be seen$/m);
  await page.getByRole("button", { name: "Share a read-only link" }).click();
  await page.getByRole("button", { name: "Make a link" }).click();
  const field = page.getByLabel("Read-only link", { exact: true });
  await expect(field).toHaveValue(/#sessionId=/);
  await shell.screenshot("share");
  const link = await field.inputValue();
  expect(new URL(link).search).toBe("");
  const other = await context.newPage();
  const viewer = new Shell(other, stack);
  await other.goto(link);
  await viewer.connected();
  await viewer.shows(/^to be seen$/m);
  await expect(other.getByText("Read-only", { exact: true })).toBeVisible();
  await expect(other.getByRole("button", { name: "Extend" })).toBeHidden();
  await other.locator(".xterm-helper-textarea").focus();
  await other.keyboard.type("echo no\n");
  await viewer.screenshot("read-only");
  await page.bringToFront();
  await page.getByRole("button", { name: "Close panel" }).click();
  await shell.run("echo live");
  await viewer.shows(/^live$/m);
  expect((await shell.screen()).join("\n")).not.toContain("echo no");
});

test("search finds in the scrollback", async ({ shell, page }) => {
  await shell.open();
  await shell.run("echo needle; seq 200; clear -x");
  await shell.prompt();
  await page.keyboard.press("Control+Shift+F");
  await page.keyboard.type("needle");
  await expect(page.locator(".search .count")).toHaveText("2 of 2");
  await page.keyboard.press("Shift+Enter");
  await page.keyboard.press("Enter");
  await shell.screenshot("search");
  await page.keyboard.press("Escape");
  await expect(page.locator(".search")).toBeHidden();
});

test("a program writes to the clipboard only with consent, never reads it", async ({ shell, page }) => {
  await shell.open();
  await page.evaluate(() => navigator.clipboard.writeText("mine"));
  const offer = `printf '\\033]52;c;${Buffer.from("theirs").toString("base64")}\\a'`;
  await shell.run(offer);
  await expect(page.getByText("A program wants to put this on your clipboard:")).toBeVisible();
  await shell.screenshot("clipboard");
  await page.getByRole("button", { name: "No" }).click();
  expect(await page.evaluate(() => navigator.clipboard.readText())).toBe("mine");
  await shell.run(offer);
  await page.getByRole("button", { name: "Allow" }).click();
  await expect.poll(() => page.evaluate(() => navigator.clipboard.readText())).toBe("theirs");
  await shell.run("clear; printf '\\033]52;c;?\\a'; read -t 1 -n 30 -s x; echo \"[${#x}]\"");
  await shell.shows(/^\[\d+\]$/m);
  expect((await shell.screen()).join("\n")).not.toContain(Buffer.from("theirs").toString("base64"));
});

test("the session downloads as asciicast v2", async ({ shell, page }) => {
  await shell.open();
  await shell.run("echo recorded €");
  await shell.shows(/^recorded €$/m);
  await page.getByRole("button", { name: /^Menu/ }).click();
  const waiting = page.waitForEvent("download");
  await page.getByRole("menuitem", { name: "Download recording" }).click();
  const file = await waiting;
  expect(file.suggestedFilename()).toMatch(/\.cast$/);
  const [header, ...events] = readFileSync(await file.path(), "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  expect(header).toMatchObject({ version: 2, width: expect.any(Number), height: expect.any(Number) });
  expect(
    events.every(([time, code, text]) => typeof time === "number" && /^[or]$/.test(code) && typeof text === "string"),
  ).toBe(true);
  expect(events.map(([, , text]) => text).join("")).toContain("recorded €");
});

test("tabs have separate sessions, and survive a reload", async ({ shell, page }) => {
  await shell.open();
  await shell.run("echo one");
  await shell.shows(/^one$/m);
  await page.getByRole("button", { name: "New session" }).click();
  await expect(page.getByRole("tab")).toHaveCount(2);
  await shell.connected();
  await shell.run("echo two");
  await shell.shows(/^two$/m);
  await shell.screenshot("tabs");
  await page.reload();
  await shell.connected();
  await shell.shows(/^two$/m);
  await page.getByRole("tab").first().click();
  await shell.connected();
  await shell.shows(/^one$/m);
  await page.getByRole("tab").first().press("Delete");
  await expect(page.getByRole("tab")).toHaveCount(1);
  await shell.shows(/^two$/m);
});

test("a duplicated tab takes a new client id, and both tabs work", async ({ shell, page, stack }) => {
  await shell.open();
  const opened = page.waitForEvent("popup");
  await page.evaluate(() => void window.open(location.href)); // copies sessionStorage, as “Duplicate tab” does
  const copy = new Shell(await opened, stack);
  await copy.connected();
  const name = (of: Shell) => of.page.evaluate(() => window.__shellbridge.client?.diagnostics.clientId);
  expect(await name(copy)).not.toBe(await name(shell));
  await copy.run("echo from the copy");
  await shell.shows(/^from the copy$/m);
  await page.bringToFront();
  await shell.run("echo from the first");
  await copy.shows(/^from the first$/m);
});

test("predicted echo shows on a slow connection, never at a password prompt", async ({ shell, page, stack }) => {
  await shell.open();
  await page.getByRole("button", { name: /^Menu/ }).click();
  await page.getByRole("menuitemcheckbox", { name: "Predict typing on slow connections" }).click();
  await page.keyboard.press("Escape");
  await stack.faults({ delayMs: 400 });
  await page.evaluate(() => window.__shellbridge.client?.ping());
  await expect
    .poll(() => page.evaluate(() => window.__shellbridge.client?.diagnostics.roundTrip.last ?? 0))
    .toBeGreaterThan(100);
  const predicted = page.locator(".shellbridge-predicted span");
  await shell.type("e");
  await expect.poll(async () => (await shell.screen()).at(-1)).toBe("$ e"); // echoed, which turns prediction on
  // Long enough to be seen on a busy machine.
  await stack.faults({ delayMs: 3000 });
  await shell.type("cho");
  await expect(predicted).toHaveCount(3);
  await shell.screenshot("predicted");
  await expect.poll(async () => (await shell.screen()).at(-1)).toBe("$ echo");
  await expect(predicted).toHaveCount(0);
  await stack.faults({ delayMs: 400 });
  await page.keyboard.press("Control+u");
  await shell.prompt();
  await shell.run("stty -echo; echo rea''dy; read secret; stty echo; echo got ${#secret}");
  await shell.shows(/^ready$/m); // no echo from here on
  let shown = 0;
  await page.exposeFunction("predictionShown", () => shown++);
  await page.evaluate(() => {
    const report = (window as unknown as { predictionShown(): void }).predictionShown;
    new MutationObserver(() => document.querySelector(".shellbridge-predicted span") && report()).observe(
      document.body,
      {
        childList: true,
        subtree: true,
      },
    );
  });
  await shell.type("hunter2", 80);
  await page.keyboard.press("Enter");
  await shell.shows(/got 7/);
  expect(shown).toBe(0);
});

test("everything can be reached by keyboard", async ({ shell, page }) => {
  await shell.open();
  await page.keyboard.press("Control+Shift+Space");
  await expect(page.getByRole("menu")).toBeVisible();
  await page.keyboard.press("End");
  await expect(page.getByRole("menuitemcheckbox", { name: "Predict typing on slow connections" })).toBeFocused();
  await shell.screenshot("menu");
  await page.keyboard.press("Escape");
  await expect(page.getByRole("menu")).toBeHidden();
  await shell.run("echo back in the terminal");
  await shell.shows(/^back in the terminal$/m);
});

test("a phone: the terminal fits, and Esc, Ctrl and arrows are there", async ({ browser, stack }) => {
  const context = await browser.newContext({
    viewport: { width: 390, height: 780 },
    hasTouch: true,
    isMobile: true,
    deviceScaleFactor: 2,
  });
  const page = await context.newPage();
  const shell = new Shell(page, stack);
  await shell.open();
  await shell.run("cat");
  await page.getByRole("button", { name: "Control, for the next key" }).tap();
  await shell.screenshot("phone");
  await shell.type("c");
  await shell.prompt();
  await page.getByRole("button", { name: "Up" }).tap();
  await expect.poll(async () => (await shell.screen()).at(-1)).toBe("$ cat");
  expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(390);
  expect(await page.evaluate(() => window.__shellbridge.terminal?.cols ?? 0)).toBeGreaterThanOrEqual(38);
  for (const button of await page.locator(".touch button, .bar button:visible").all()) {
    expect((await button.boundingBox())?.height).toBeGreaterThanOrEqual(22);
  }
  await context.close();
});

for (const scheme of ["dark", "light"] as const) {
  test(`axe finds nothing serious, ${scheme}`, async ({ shell, page }) => {
    await page.emulateMedia({ colorScheme: scheme });
    await shell.open();
    await shell.run("ls -la --color=always /");
    await shell.prompt();
    await shell.screenshot(scheme);
    const check = async (state: string) => {
      expect(await serious(page), state).toEqual([]);
    };
    await check("terminal");
    await page.keyboard.press("Control+Shift+Space");
    await check("menu");
    await page.keyboard.press("Escape");
    await page.locator(".connection").click();
    await check("diagnostics");
    await page.getByRole("button", { name: "Run a command" }).click();
    await check("run a command");
    await page.getByRole("button", { name: "Share a read-only link" }).click();
    await check("share");
    await page.keyboard.press("Escape");
    await page.keyboard.press("Control+Shift+F");
    await check("search");
    await page.keyboard.press("Escape");
    await shell.run("exit");
    await expect(page.getByText("This session has ended")).toBeVisible();
    await check("ended");
  });
}

test("a link that is not valid says why", async ({ page, stack, shell }) => {
  const { sessionId } = await stack.session();
  const hash = new URLSearchParams({ sessionId, token: "not.a.token", url: stack.websocket });
  await page.goto(`${stack.page}/#${hash}`);
  await shell.state("failed");
  await expect(page.getByRole("alert")).toBeVisible();
  await shell.screenshot("refused");
});
