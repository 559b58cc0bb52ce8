// The session's state machine that the backend ships, as a WebAssembly module: crates/web/test/session-wasm. One instance
// is one session. `npm test` builds it.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Payload } from "../../src/protocol.gen";

/** A connection, and the Unix ms at which it was made. */
export interface Peer {
  id: string;
  connectedAt: number;
}

/** The backend's settings, in bytes and ms. */
export interface Settings {
  outputBuffer: number;
  outputWindow: number;
  resumeGrace: number;
}

/** What happened. */
export type Event =
  | ({ type: "start"; started: number } & Settings)
  | ({ type: "connect" } & Peer)
  | { type: "frame"; peer: Peer; text: string }
  | { type: "gone"; id: string }
  | { type: "pushed"; push: number; delivered: boolean }
  | { type: "checked"; id: string; exists: boolean }
  | { type: "output"; bytes: Payload }
  | { type: "written"; clientId: string; count: number }
  | { type: "exit"; exitCode: number }
  | { type: "timeout" };

/** What the session wants done. A push with a number is to be reported; one without answers a frame. */
type Action =
  | { type: "push"; to: string; text: string; push: number | null }
  | { type: "close"; id: string; last: string | null }
  | { type: "check"; id: string }
  | { type: "end"; why: string };

export interface Step {
  actions: Action[];
  /** Input that the shell may read. */
  write: { clientId: string; bytes: Payload } | null;
  /** Bytes that may be read from the shell. */
  allowance: number;
  /** When `timeout` is due, ms after the start. */
  timeout: number | null;
}

interface Exports {
  memory: WebAssembly.Memory;
  buffer(length: number): number;
  length(): number;
  handle(): void;
}

const file = join(import.meta.dirname, "../../../../target/wasm32-unknown-unknown/debug/shellbridge_session_wasm.wasm");
let compiled: WebAssembly.Module | undefined;

function load(): WebAssembly.Module {
  try {
    return new WebAssembly.Module(readFileSync(file));
  } catch (cause) {
    throw new Error("the session's module is missing: npm run build:session", { cause });
  }
}

export class Session {
  readonly #exports: Exports;

  constructor() {
    compiled ??= load();
    this.#exports = new WebAssembly.Instance(compiled).exports as unknown as Exports;
  }

  /** Hands in what happened at `now`, in ms after the start. Throws what the module panics with. */
  handle(now: number, event: Event): Step {
    const bytes = Buffer.from(JSON.stringify({ now, ...event }));
    this.#buffer(bytes.length).set(bytes);
    let failed = false;
    try {
      this.#exports.handle();
    } catch {
      failed = true;
    }
    const answer = Buffer.from(this.#buffer(this.#exports.length())).toString();
    if (failed) throw new Error(answer);
    return JSON.parse(answer);
  }

  #buffer(length: number): Uint8Array {
    const at = this.#exports.buffer(length);
    return new Uint8Array(this.#exports.memory.buffer, at, length);
  }
}
