// A flood of output: the page stays responsive, memory stays stable, Ctrl-C works at once.
import { expect, test } from "./support/test";

const MB = 50;

test(`${MB} MB of output: no long task, stable memory, and Ctrl-C within 300 ms`, async ({ shell, page }) => {
  test.setTimeout(300_000);
  await shell.open();
  const cdp = await page.context().newCDPSession(page);
  const heap = async () => {
    await cdp.send("HeapProfiler.collectGarbage");
    return (await cdp.send("Runtime.getHeapUsage")).usedSize / 1024 / 1024;
  };
  const received = () => page.evaluate(() => window.__shellbridge.client?.diagnostics.outputOffset ?? 0);
  await page.evaluate(() => {
    const longest = { ms: 0 };
    Object.assign(window, { longest });
    new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) longest.ms = Math.max(longest.ms, entry.duration);
    }).observe({ type: "longtask" });
  });
  const start = await received();
  await shell.run(
    `yes 'the quick brown fox jumps over the lazy dog 0123456789' | head -c ${MB}000000; echo; echo done`,
  );
  await expect.poll(async () => (await received()) - start, { timeout: 240_000 }).toBeGreaterThan(10e6);
  const early = await heap();
  await expect.poll(async () => (await shell.screen()).includes("done"), { timeout: 240_000 }).toBe(true);
  expect((await received()) - start).toBeGreaterThan(MB * 1e6);
  expect(await page.evaluate(() => (window as unknown as { longest: { ms: number } }).longest.ms)).toBeLessThan(200);
  expect((await heap()) - early).toBeLessThan(30);

  await shell.run("clear; yes 'and on and on and on'");
  const before = await received();
  await expect.poll(async () => (await received()) - before).toBeGreaterThan(2e6);
  // Measures in the page, from the key to the prompt on the screen. Installs the listener first, because a busy page
  // handles input before other requests.
  await page.evaluate(() => {
    const took = new Promise<number>((done) =>
      addEventListener(
        "keydown",
        () => {
          const pressed = performance.now();
          const look = () => {
            if (window.__shellbridge.screen().findLast((row) => row !== "") === "$") done(performance.now() - pressed);
            else requestAnimationFrame(look);
          };
          look();
        },
        { capture: true, once: true },
      ),
    );
    Object.assign(window, { took });
  });
  await page.keyboard.press("Control+c");
  expect(await page.evaluate(() => (window as unknown as { took: Promise<number> }).took)).toBeLessThan(300);
});
