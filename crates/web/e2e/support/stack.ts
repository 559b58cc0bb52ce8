// The local stack: a gateway process, which starts the backend and the function. Needs `cargo build`.
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";

const BIN = resolve(process.env.SHELLBRIDGE_BIN_DIR ?? join(import.meta.dirname, "../../../../target/debug"));

export interface Faults {
  seed?: number;
  delayMs?: number;
  reorder?: number;
  repeat?: number;
  drop?: number;
  pushFail?: number;
  pushFailAfterDelivery?: number;
  cutEveryMs?: number;
  cutEveryFrames?: number;
  cutAbruptly?: boolean;
  killFunctionEveryMs?: number;
}

const CALM: Required<Faults> = {
  seed: 1,
  delayMs: 0,
  reorder: 0,
  repeat: 0,
  drop: 0,
  pushFail: 0,
  pushFailAfterDelivery: 0,
  cutEveryMs: 0,
  cutEveryFrames: 0,
  cutAbruptly: false,
  killFunctionEveryMs: 0,
};

export class Stack {
  page = "";
  websocket = "";
  control = "";
  /** The last lines of the gateway's stderr. */
  readonly log: string[] = [];

  private constructor(
    private readonly process: ChildProcess,
    private readonly home: string,
  ) {}

  /** Starts the stack on free ports. */
  static async start(env: Record<string, string> = {}): Promise<Stack> {
    const program = (name: string) => {
      const path = join(BIN, name);
      if (!existsSync(path))
        throw new Error(`${path} is missing: run \`cargo build\` first, or set SHELLBRIDGE_BIN_DIR`);
      return path;
    };
    // An empty home directory, so that no start-up files change the shell.
    const home = mkdtempSync(join(tmpdir(), "shellbridge-home-"));
    const child = spawn(
      program("gateway"),
      [
        ...["--backend", program("backend"), "--function", program("websocket-handler")],
        ...["--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--backend-port", "0"],
      ],
      { env: { ...process.env, HOME: home, ...env }, stdio: ["ignore", "pipe", "pipe"] },
    );
    const stack = new Stack(child, home);
    createInterface({ input: child.stderr }).on("line", (line) => {
      stack.log.push(line);
      if (stack.log.length > 200) stack.log.shift();
    });
    await new Promise<void>((resolve, reject) => {
      const fail = (why: string) => reject(new Error(`${why}\n${stack.log.join("\n")}`));
      child.once("exit", (code, signal) => fail(`the gateway ended with ${code ?? signal}`));
      createInterface({ input: child.stdout }).on("line", (line) => {
        const [word, value = ""] = line.trim().split(/\s+/);
        if (word === "page") stack.page = value.replace(/\/$/, "");
        else if (word === "websocket") stack.websocket = value;
        else if (word === "control") stack.control = value.replace(/\/$/, "");
        else if (word === "ready") resolve();
      });
    });
    return stack;
  }

  async faults(faults: Faults): Promise<void> {
    const response = await fetch(`${this.control}/__faults`, { method: "POST", body: JSON.stringify(faults) });
    if (!response.ok) throw new Error(`the control port returned ${response.status}: ${await response.text()}`);
  }

  calm = (): Promise<void> => this.faults(CALM);

  async state(): Promise<{ cuts: number; connections: number; messagesIn: number; messagesOut: number }> {
    return (await fetch(`${this.control}/__state`)).json();
  }

  /** Creates a session with a plain bash. `hash` is the page's #fragment. */
  async session(more: { ttlSeconds?: number } = {}): Promise<{ sessionId: string; token: string; hash: string }> {
    const response = await fetch(`${this.page}/api/dev/sessions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ shell: "/bin/bash", env: { HISTFILE: "/dev/null" }, ...more }),
    });
    if (!response.ok) throw new Error(`no session: ${response.status} ${await response.text()}`);
    const { sessionId, token, webSocketUrl } = (await response.json()) as Record<string, string>;
    const hash = `#${new URLSearchParams({ sessionId, token, url: webSocketUrl } as Record<string, string>)}`;
    return { sessionId: sessionId as string, token: token as string, hash };
  }

  /** SIGKILL crashes the backend, which its init then starts again. SIGSTOP makes it hang until SIGCONT. */
  signalBackend(signal: "SIGKILL" | "SIGSTOP" | "SIGCONT"): void {
    const init = childBackend(this.process.pid ?? 0);
    process.kill(childBackend(init), signal);
  }

  async stop(): Promise<void> {
    if (this.process.exitCode !== null) return;
    const ended = new Promise((done) => this.process.once("exit", done));
    this.process.kill("SIGTERM");
    await ended;
    rmSync(this.home, { recursive: true, force: true });
  }
}

/** The child named `backend` of a process. */
function childBackend(parent: number): number {
  for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      const status = readFileSync(`/proc/${pid}/status`, "utf8");
      if (/^Name:\tbackend$/m.test(status) && new RegExp(`^PPid:\t${parent}$`, "m").test(status)) return Number(pid);
    } catch {
      // The process has exited.
    }
  }
  throw new Error("the backend's process was not found");
}
