// The package as consumers use it: packed, installed in a new Vite app and a new Next.js app, type-checked with each of
// TypeScript's module resolutions, built, and run. The code comes from the READMEs.
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { expect, test } from "@playwright/test";
import { Stack } from "./support/stack";

const WEB = resolve(import.meta.dirname, "..");
const ADMIN_TOKEN = "admin-token-of-the-consumers-test-of-32-bytes-and-more";

/** Returns the code block of a README that begins with the comment `// NAME`. */
function example(readme: string, name: string): string {
  const text = readFileSync(resolve(WEB, readme), "utf8");
  const [, code] = text.split(`\`\`\`tsx\n// ${name}\n`);
  if (code === undefined) throw new Error(`${readme} has no block that begins with “// ${name}”`);
  return code.slice(0, code.indexOf("```"));
}

let dir: string;
let tarball: string;

/** Runs a command in an app's directory. An error contains its output. */
function run(app: string, command: string, env: Record<string, string> = {}): void {
  const [program = "", ...args] = command.split(" ");
  const quiet = { NEXT_TELEMETRY_DISABLED: "1", npm_config_update_notifier: "false" };
  try {
    execFileSync(program, args, { cwd: join(dir, app), env: { ...process.env, ...quiet, ...env }, stdio: "pipe" });
  } catch (error) {
    const { stdout, stderr } = error as { stdout: Buffer; stderr: Buffer };
    throw new Error(`${command} in the ${app} app:\n${stdout}\n${stderr}`);
  }
}

/** Creates an app from its template and installs the package. */
function create(app: string, files: Record<string, string>): void {
  cpSync(join(WEB, "e2e/consumers", app), join(dir, app), { recursive: true });
  for (const [path, code] of Object.entries(files)) writeFileSync(join(dir, app, path), code);
  run(app, `npm install --prefer-offline --no-audit --no-fund --ignore-scripts ${tarball}`);
}

/** Type-checks one file with Node's module resolutions, including the package's declarations. */
function checkAsNode(app: string, file: string): void {
  for (const module of ["node16", "nodenext"]) {
    const options = { extends: "./tsconfig.json", files: [file], include: [] };
    const compilerOptions = { module, moduleResolution: module, incremental: false, skipLibCheck: false };
    writeFileSync(join(dir, app, `tsconfig.${module}.json`), JSON.stringify({ ...options, compilerOptions }));
    run(app, `npx tsc -p tsconfig.${module}.json`);
  }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, "close");
  return port;
}

test.describe.configure({ timeout: 240_000 });

test.beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), "shellbridge-consumers-"));
  execFileSync("npm", ["pack", "--silent", "--pack-destination", dir], { cwd: WEB, stdio: "pipe" });
  tarball = join(dir, readdirSync(dir).find((name) => name.endsWith(".tgz")) ?? "");
});
test.afterAll(() => rmSync(dir, { recursive: true, force: true }));

test("regression: works with Vite and React, in every module resolution", () => {
  create("vite", { "src/terminal.tsx": example("README.md", "terminal.tsx") });
  run("vite", "npx tsc");
  checkAsNode("vite", "src/terminal.tsx");
  run("vite", "npx vite build");
});

test("regression: works with Next.js, in every module resolution", async ({ page }) => {
  create("next", {
    "app/lab.tsx": example("../../README.md", "app/lab.tsx"),
    "app/page.tsx": example("../../README.md", "app/page.tsx"),
    "app/terminal/terminal.tsx": example("README.md", "terminal.tsx"),
    "app/terminal/view.tsx": example("README.md", "view.tsx"),
  });
  checkAsNode("next", "app/lab.tsx");
  const port = await freePort();
  const origin = `http://127.0.0.1:${port}`;
  const stack = await Stack.start({ ALLOWED_ORIGINS: origin, ADMIN_TOKEN });
  let server: ChildProcess | undefined;
  try {
    const env = { NEXT_PUBLIC_WS_URL: stack.websocket, NEXT_PUBLIC_BACKEND: stack.page, ADMIN_TOKEN };
    run("next", "npx next build", env); // also type-checks, with the resolution of bundlers
    const next = join(dir, "next/node_modules/next/dist/bin/next");
    server = spawn(process.execPath, [next, "start", "-H", "127.0.0.1", "-p", String(port)], {
      cwd: join(dir, "next"),
      env: { ...process.env, ...env, NEXT_TELEMETRY_DISABLED: "1" },
      stdio: "ignore",
    });
    await expect(async () => expect((await fetch(`${origin}/terminal`)).status).toBeGreaterThan(0)).toPass();

    const complaints: string[] = [];
    page.on("pageerror", (error) => complaints.push(error.message));
    await page.goto(origin);
    await expect(page.getByRole("status")).toHaveText("Connected");
    await page.getByLabel("Command").fill("echo $((6*7))");
    await page.getByRole("button", { name: "Run" }).click();
    await expect(page.locator("pre")).toHaveText("42\n");

    const { sessionId, token } = await stack.session();
    await page.goto(`${origin}/terminal?${new URLSearchParams({ sessionId, token })}`);
    await page.locator(".xterm-helper-textarea").focus();
    await page.keyboard.type("echo $((6*7))\n");
    await expect(page.locator(".xterm-rows > div", { hasText: /^42\s*$/ })).toBeVisible();
    expect(complaints).toEqual([]);
  } finally {
    server?.kill();
    if (server && server.exitCode === null) await once(server, "exit");
    await stack.stop();
  }
});
