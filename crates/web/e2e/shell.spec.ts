// A shell in the page, end to end.
import { expect, test } from "./support/test";

test("opens a session, shows 42, follows a resize, and runs vi", async ({ page, shell, stack }) => {
  await page.goto(stack.page);
  await shell.connected();
  await shell.run("PS1='$ '; clear");
  await shell.prompt();
  await shell.run("echo $((6*7))");
  await shell.shows(/^42$/m);
  await shell.screenshot("shell");

  await page.setViewportSize({ width: 800, height: 500 });
  const size = () =>
    page.evaluate(() => [window.__shellbridge.terminal?.rows, window.__shellbridge.terminal?.cols].join(" "));
  await expect.poll(size).not.toBe("");
  await expect
    .poll(async () => {
      await shell.run("clear; stty size");
      await shell.prompt();
      return (await shell.screen()).includes(await size());
    })
    .toBe(true);

  await shell.run("vi");
  await expect.poll(() => page.evaluate(() => window.__shellbridge.terminal?.buffer.active.type)).toBe("alternate");
  await shell.shows(/^~$/m);
  await page.keyboard.press("Escape");
  await shell.run(":q!");
  await expect.poll(() => page.evaluate(() => window.__shellbridge.terminal?.buffer.active.type)).toBe("normal");
  await shell.prompt();
});

test("a reload restores the screen and repeats no terminal reports", async ({ page, shell }) => {
  await shell.open();
  // Queries to the terminal: device attributes, cursor position, colours, modes.
  await shell.run(
    String.raw`printf '\033[c\033[6n\033]11;?\033\\\033[?25$p'; sleep 0.3; read -t 0.3 -n 200 -s x; clear; echo before`,
  );
  await shell.shows(/^before$/m);
  await shell.prompt();
  const before = await shell.screen();
  const id = await page.evaluate(() => window.__shellbridge.client?.diagnostics.clientId);
  await shell.acknowledged(); // otherwise the next page takes a new client id
  await page.reload();
  await shell.connected();
  await expect.poll(() => shell.screen()).toEqual(before);
  expect(await page.evaluate(() => window.__shellbridge.client?.diagnostics.clientId)).toBe(id);
  await shell.run("echo after");
  await shell.shows(/^after$/m);
  await shell.prompt();
  expect(await shell.screen()).toEqual([...before.slice(0, -1), "$ echo after", "after", "$"]);
});

test("the page reports the shell's exit and offers a new session", async ({ page, shell }) => {
  await shell.open();
  await shell.run("exit 3");
  await expect(page.getByText("This session has ended")).toBeVisible();
  await expect(page.getByText("The shell exited with 3.")).toBeVisible();
  await shell.screenshot("ended");
  await page.keyboard.press("Enter");
  await shell.connected();
  await expect(page.getByText("This session has ended")).toBeHidden();
  await shell.run("echo $((40+2))");
  await shell.shows(/^42$/m);
});

test("carries UTF-8, wide characters and a paste of 30 kB", async ({ page, shell }) => {
  await shell.open();
  await shell.run("echo 'äöü € 漢字 😀'");
  await shell.shows("äöü € 漢字 😀");
  const text = `${"0123456789abcdef".repeat(60)}\n`.repeat(31);
  await shell.run("stty -echo; head -c 29791 | md5sum; stty echo");
  await page.evaluate((text) => window.__shellbridge.terminal?.input(text), text);
  const { createHash } = await import("node:crypto");
  await shell.shows(createHash("md5").update(text).digest("hex"));
});
