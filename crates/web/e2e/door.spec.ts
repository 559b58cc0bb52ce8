// Links from strangers: what they can do to a user who opens one, and to an open page.
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import type { Page } from "@playwright/test";
import { serious } from "./support/axe";
import { expect, Shell, test } from "./support/test";

/** Another origin's server, with a page and a WebSocket endpoint. Records its requests. */
class Elsewhere {
  visits: string[] = [];
  #server: Server;

  private constructor() {
    this.#server = createServer((request, response) => {
      this.visits.push(request.url ?? "");
      response.setHeader("content-type", "text/html");
      response.end("<!doctype html><title>Elsewhere</title>");
    });
    this.#server.on("upgrade", (request, socket) => {
      this.visits.push(request.url ?? "");
      socket.destroy();
    });
  }

  static async start(): Promise<Elsewhere> {
    const elsewhere = new Elsewhere();
    await new Promise<void>((listening) => elsewhere.#server.listen(0, "127.0.0.1", listening));
    return elsewhere;
  }

  get host(): string {
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  stop(): void {
    this.#server.close();
    this.#server.closeAllConnections();
  }
}

const link = (session: { sessionId: string; token: string }, url: string) =>
  `#${new URLSearchParams({ sessionId: session.sessionId, token: session.token, url })}`;
const question = (page: Page) => page.getByRole("dialog");
const focused = (page: Page) => page.evaluate(() => document.activeElement?.textContent);

test.describe("regression: a link to another server", () => {
  let elsewhere: Elsewhere;
  test.beforeEach(async () => {
    elsewhere = await Elsewhere.start();
  });
  test.afterEach(() => elsewhere.stop());

  test("needs consent, shows the host, and connects nowhere without it", async ({ page, stack, shell }) => {
    const session = await stack.session();
    await page.goto(`${stack.page}/${link(session, `ws://${new URL(stack.websocket).host}@${elsewhere.host}/prod`)}`);
    await expect(question(page)).toContainText("Connect to another address?");
    await expect(question(page).locator("dd").first()).toHaveText(elsewhere.host);
    expect(await focused(page)).toBe("Cancel");
    for (const colorScheme of ["dark", "light"] as const) {
      await page.emulateMedia({ colorScheme });
      expect(await serious(page)).toEqual([]);
      await shell.screenshot(`question-address-${colorScheme}`);
    }
    await page.keyboard.type("secret");
    await expect(page.locator(".xterm")).toHaveCount(0);
    await page.keyboard.press("Escape");
    await expect(question(page)).toHaveCount(0);
    await expect(page.getByRole("alert")).toContainText("No terminal is open");
    expect(new URL(page.url()).hash).toBe("");
    expect(elsewhere.visits).toEqual([]);
  });

  test("is blocked even with consent, and the page says why", async ({ context, stack }) => {
    const page = await context.newPage(); // not the fixture's page, which forbids console errors
    const session = await stack.session();
    await page.goto(`${stack.page}/${link(session, `ws://${elsewhere.host}/prod`)}`);
    await question(page).getByRole("button", { name: "Connect" }).click();
    await expect(page.getByRole("alert")).toContainText(`The page may not connect to ${elsewhere.host}.`);
    await new Shell(page, stack).screenshot("address-not-allowed");
    expect(elsewhere.visits).toEqual([]);
  });

  test("leaves the other sessions of the link usable", async ({ page, stack, shell }) => {
    const own = await stack.session();
    await page.goto(`${stack.page}/${own.hash}&${link(own, `ws://${elsewhere.host}/prod`).slice(1)}`);
    await question(page).getByRole("button", { name: "Cancel" }).click();
    await shell.connected();
    await expect(page.getByRole("tab")).toHaveCount(1);
    expect(elsewhere.visits).toEqual([]);
  });

  test("cannot be injected into a page that another page opened", async ({ context, stack }) => {
    const { hash } = await stack.session();
    const attacker = await context.newPage();
    await attacker.goto(`http://${elsewhere.host}/`);
    const opened = context.waitForEvent("page");
    await attacker.evaluate((url) => {
      (window as unknown as { victim: Window | null }).victim = window.open(url);
    }, `${stack.page}/${hash}`);
    const victim = await opened;
    await new Shell(victim, stack).connected();
    const closed = () =>
      attacker.evaluate(() => (window as unknown as { victim: Window | null }).victim?.closed ?? true);
    expect(await closed()).toBe(true);
    expect(await victim.evaluate(() => window.opener)).toBeNull();
  });
});

test("a variant of the server's own address needs consent once", async ({ page, stack, shell }) => {
  await page.goto(`${stack.page}/${link(await stack.session(), `${stack.websocket}?x=1`)}`);
  await expect(question(page)).toContainText(new URL(stack.websocket).host);
  await question(page).getByRole("button", { name: "Connect" }).click();
  await shell.connected();
  await shell.run("echo $((6*7))");
  await shell.shows(/^42$/m);
  await page.reload();
  await shell.connected();
  await expect(question(page)).toHaveCount(0);
});

test("a reload needs no consent while the server is unreachable", async ({ page, shell }) => {
  await shell.open();
  await page.route("**/api/**", (route) => route.abort());
  await page.reload();
  await shell.connected();
});

test("regression: a link into a page in use needs consent", async ({ page, stack, shell }) => {
  const { sessionId } = await shell.open();
  const other = await stack.session();
  const arrive = () => page.evaluate((hash) => location.assign(hash), other.hash);
  await arrive();
  await expect(question(page)).toContainText("Open another terminal?");
  await expect(question(page)).toContainText(other.sessionId);
  expect(await focused(page)).toBe("Cancel");
  expect(new URL(page.url()).hash).toContain(sessionId);
  expect(await serious(page)).toEqual([]);
  await shell.screenshot("question-tab");
  await page.keyboard.press("Enter");
  await expect(question(page)).toHaveCount(0);
  await expect(page.getByRole("tab")).toHaveCount(1);
  await shell.run("echo still here");
  await shell.shows(/^still here$/m);
  await arrive();
  await question(page).getByRole("button", { name: "Open" }).click();
  await expect(page.getByRole("tab")).toHaveCount(2);
  await shell.connected();
  expect(await page.evaluate(() => window.__shellbridge.client?.sessionId)).toBe(other.sessionId);
});

test("regression: an address without its stage is reported as such", async ({ page, stack, shell }) => {
  const host = new URL(stack.websocket).origin;
  await page.goto(`${stack.page}/${link(await stack.session(), host)}`);
  await question(page).getByRole("button", { name: "Connect" }).click();
  const error = () => page.evaluate(() => window.__shellbridge.client?.status.error?.code);
  await expect.poll(error).toBe("HANDSHAKE_REFUSED");
  const toast = page.locator(".toast", { hasText: "Is the stage missing" });
  await expect(toast).toContainText(`no handshake at ${host} has succeeded. `);
  await expect(toast).toContainText(`The server's URL is ${stack.websocket}.`);
  await shell.screenshot("wrong-stage");
});
