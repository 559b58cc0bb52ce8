// Fixtures: a stack, a page without console errors, and a terminal to type into and read.
import { mkdirSync } from "node:fs";
import { test as base, expect, type Page } from "@playwright/test";
import { Stack } from "./stack";

export { expect };

/** The browser logs broken and refused connections itself; a page cannot prevent it. */
const BROWSER_OWN = /^WebSocket connection to |^Failed to load resource/;

export class Shell {
  #typed = 0;

  constructor(
    readonly page: Page,
    private readonly stack: Stack,
  ) {}

  /** Opens a session and waits for its prompt. */
  async open(more: Parameters<Stack["session"]>[0] = {}): Promise<{ sessionId: string; token: string; hash: string }> {
    const session = await this.stack.session(more);
    await this.page.goto(`${this.stack.page}/${session.hash}`);
    await this.connected();
    await expect.poll(async () => (await this.screen()).at(-1)).toMatch(/[$#]$/);
    await this.run("PS1='$ '; clear"); // overrides the machine's start-up files
    await this.prompt();
    return session;
  }

  async connected(): Promise<void> {
    await this.state("connected");
  }

  async state(state: string): Promise<void> {
    await expect.poll(() => this.page.evaluate(() => window.__shellbridge?.client?.status.state)).toBe(state);
  }

  /** The rows of the screen, without empty ones at the end. */
  async screen(): Promise<string[]> {
    const rows = await this.page.evaluate(() => window.__shellbridge.screen());
    while (rows.length > 0 && rows.at(-1) === "") rows.pop();
    return rows;
  }

  /** Waits for an empty prompt in the last row. */
  async prompt(): Promise<void> {
    await expect.poll(async () => (await this.screen()).at(-1)).toBe("$");
  }

  async shows(text: string | RegExp): Promise<void> {
    if (typeof text === "string") await expect.poll(async () => (await this.screen()).join("\n")).toContain(text);
    else await expect.poll(async () => (await this.screen()).join("\n")).toMatch(text);
  }

  async type(text: string, delay = 0): Promise<void> {
    await this.page.keyboard.type(text, { delay });
    this.#typed += Buffer.byteLength(text);
  }

  /** Types a line and Enter. */
  async run(line: string): Promise<void> {
    await this.type(line);
    await this.page.keyboard.press("Enter");
    this.#typed++;
  }

  /** Waits until all typed input is acknowledged. */
  async acknowledged(): Promise<void> {
    const offset = () => this.page.evaluate(() => window.__shellbridge.client?.diagnostics.inputOffset);
    await expect.poll(offset).toBeGreaterThanOrEqual(this.#typed);
  }

  /** Saves a screenshot for review: test-results/NAME.png. */
  async screenshot(name: string): Promise<void> {
    mkdirSync("test-results", { recursive: true });
    await this.page.screenshot({ path: `test-results/${name}.png`, animations: "disabled" });
  }
}

/** Frames kept for the report of a failed test. */
const FRAMES_KEPT = 400;

export const test = base.extend<
  { shell: Shell; complaints: string[]; calmAfter: undefined; frames: undefined },
  { stack: Stack }
>({
  stack: [
    // biome-ignore lint/correctness/noEmptyPattern: Playwright requires a pattern here.
    async ({}, use) => {
      const stack = await Stack.start();
      await use(stack);
      await stack.stop();
    },
    { scope: "worker", timeout: 60_000 },
  ],
  calmAfter: [
    async ({ stack }, use) => {
      await use(undefined);
      await stack.calm();
    },
    { auto: true },
  ],
  frames: [
    async ({ page, stack }, use, info) => {
      const frames: string[] = [];
      const add = (line: string) => {
        frames.push(`${new Date().toISOString().slice(14, 23)} ${line.slice(0, 300)}`);
        if (frames.length > FRAMES_KEPT) frames.shift();
      };
      page.on("websocket", (socket) => {
        add("opening");
        socket.on("framesent", ({ payload }) => add(`→ ${payload}`));
        socket.on("framereceived", ({ payload }) => add(`← ${payload}`));
        socket.on("close", () => add("closed"));
      });
      await use(undefined);
      if (info.status === info.expectedStatus) return;
      const known = await page
        .evaluate(() => JSON.stringify(window.__shellbridge?.client?.diagnostics, null, 1))
        .catch((error) => `${error}`);
      const report = [...frames, known, ...stack.log].join("\n");
      await info.attach("frames, diagnostics and the stack's log", { body: report, contentType: "text/plain" });
    },
    { auto: true },
  ],
  complaints: [
    async ({ page, stack }, use) => {
      const complaints: string[] = [];
      const own = [stack.page, stack.websocket.replace(/^ws/, "http")].map((url) => new URL(url).host);
      page.on("console", (message) => {
        const bad = message.type() === "error" || message.type() === "warning";
        if (bad && !BROWSER_OWN.test(message.text())) complaints.push(`${message.type()}: ${message.text()}`);
      });
      page.on("pageerror", (error) => complaints.push(`uncaught: ${error.message}`));
      page.on("request", (request) => {
        const { protocol, host } = new URL(request.url());
        if (/^http/.test(protocol) && !own.includes(host)) complaints.push(`request to another host: ${request.url()}`);
      });
      page.on("websocket", (socket) => {
        if (!own.includes(new URL(socket.url()).host)) complaints.push(`socket to another host: ${socket.url()}`);
      });
      await use(complaints);
      expect(complaints, "the page's console and its requests").toEqual([]);
    },
    { auto: true },
  ],
  shell: async ({ page, stack }, use) => use(new Shell(page, stack)),
});
