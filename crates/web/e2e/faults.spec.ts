// Faults of networks, gateways and machines, none of which the user may notice at the keyboard.
import { expect, test } from "./support/test";

/** 2,000 characters in lines of 50, each line different. */
const LINES = Array.from(
  { length: 40 },
  (_, i) => `${String(i).padStart(3, "0")} ${"abcdefghij klmnopqr stuvwxyz 0123456789 ABCDEFG".slice(0, 45)}`,
);

test("typed text arrives once and in order while sockets are cut", async ({ shell, stack, page }) => {
  test.setTimeout(120_000);
  await page.setViewportSize({ width: 1100, height: 1100 });
  await shell.open();
  await shell.run("stty -echo; clear; cat");
  await stack.faults({ cutEveryMs: 1000, cutAbruptly: true });
  for (const line of LINES) {
    await shell.type(line, 4);
    await page.keyboard.press("Enter");
  }
  await stack.calm();
  await expect.poll(() => shell.screen(), { timeout: 60_000 }).toEqual(LINES);
  expect((await stack.state()).cuts).toBeGreaterThan(3);
  expect(await page.evaluate(() => window.__shellbridge.client?.diagnostics.reconnects)).toBeGreaterThan(3);
});

test("loss, repetition and reordering change nothing", async ({ shell, stack, page }) => {
  test.setTimeout(120_000);
  await page.setViewportSize({ width: 1100, height: 1100 });
  await shell.open();
  await shell.run("stty -echo; clear; cat");
  await stack.faults({
    seed: 7,
    delayMs: 30,
    reorder: 0.3,
    repeat: 0.3,
    drop: 0.2,
    pushFail: 0.2,
    pushFailAfterDelivery: 0.5,
  });
  for (const line of LINES) {
    await shell.type(line);
    await page.keyboard.press("Enter");
  }
  await expect.poll(() => shell.screen(), { timeout: 90_000 }).toEqual(LINES);
});

test("a cut shows in the status line, and the screen stays", async ({ shell, stack, page, context }) => {
  await shell.open();
  await shell.run("echo still here");
  await shell.shows(/^still here$/m);
  await context.setOffline(true);
  await stack.faults({ cutEveryMs: 50, cutAbruptly: true });
  await expect(page.locator(".status .state")).toHaveText("Offline");
  await shell.screenshot("offline");
  await stack.calm();
  await context.setOffline(false);
  await expect(page.locator(".status .state")).toHaveText("Connected");
  await shell.run("echo and on");
  await shell.shows(/still here\n\$ echo and on\nand on/);
});

test("the terminal continues after hours of sleep", async ({ shell, page }) => {
  await page.clock.install();
  await shell.open();
  await shell.run("echo before");
  await shell.shows(/^before$/m);
  await page.clock.fastForward("03:00:00");
  await page.clock.runFor(30_000);
  await shell.connected();
  await shell.run("echo after");
  await shell.shows(/^after$/m);
});

test("a token is renewed before it expires, without an interruption", async ({ shell, page, stack }) => {
  const { token } = await shell.open({ ttlSeconds: 36 });
  await shell.run("i=0; while sleep 0.2; do i=$((i+1)); echo tick $i; done");
  await expect.poll(() => page.evaluate(() => window.__shellbridge.client?.token), { timeout: 30_000 }).not.toBe(token);
  await expect.poll(() => page.evaluate(() => window.__shellbridge.client?.diagnostics.reconnects)).toBe(1);
  const left = await page.locator(".status .left").textContent();
  expect(left).toMatch(/^(1:0|[3-5]\d:)/);
  // The new connection outlives the old token, and no output is missing.
  await expect
    .poll(async () => Number((await shell.screen()).at(-1)?.split(" ")[1]), { timeout: 60_000 })
    .toBeGreaterThan(210);
  const ticks = (await shell.screen()).filter((row) => row.startsWith("tick")).map((row) => Number(row.slice(5)));
  expect(ticks).toEqual(ticks.map((_, i) => (ticks[0] ?? 0) + i));
  expect(stack.page).toBeTruthy();
});

test("regression: a hung backend shows, with its duration, until it is back", async ({ shell, page, stack }) => {
  await shell.open();
  const known = () =>
    page.evaluate(() => {
      const { status, diagnostics } = window.__shellbridge.client ?? {};
      return [status?.state, status?.error?.code, diagnostics?.unansweredSince !== undefined];
    });
  expect(await known()).toEqual(["connected", undefined, false]);
  stack.signalBackend("SIGSTOP");
  try {
    await page.evaluate(() => window.__shellbridge.client?.ping());
    await expect.poll(known).toEqual(["connected", "BACKEND_TIMEOUT", true]);
    await page.locator(".connection").click();
    await expect(page.getByText(/^silent for 0:\d\d$/)).toBeVisible();
    await shell.screenshot("silent");
  } finally {
    stack.signalBackend("SIGCONT");
  }
  await expect.poll(known, { timeout: 30_000 }).toEqual(["connected", undefined, false]);
});

test("the shell survives a crash of the backend", async ({ shell, stack, page }) => {
  const { sessionId } = await shell.open();
  await shell.run("mine=kept; echo started");
  await shell.shows(/^started$/m);
  stack.signalBackend("SIGKILL");
  await shell.run("echo $mine $((6*7))");
  await shell.shows(/^kept 42$/m);
  expect(await page.evaluate(() => window.__shellbridge.client?.sessionId)).toBe(sessionId);
  await shell.screenshot("backend-crashed");
});

test("the page opens a new session after its shell kills the session's host", async ({ shell, page }) => {
  const { sessionId } = await shell.open();
  await shell.run("kill -9 $PPID");
  await expect(page.getByText("The session ended. This is a new one.")).toBeVisible({ timeout: 40_000 });
  await shell.screenshot("new-session");
  await shell.connected();
  expect(await page.evaluate(() => window.__shellbridge.client?.sessionId)).not.toBe(sessionId);
  await shell.run("echo $((6*7))");
  await shell.shows(/^42$/m);
});
