// The backend's session state machine as a WebAssembly module, crates/web/test/session-wasm. One instance per session.
// `npm test` builds it.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Payload } from "../../src/protocol.gen";

/** A connection and when it opened, in Unix ms. */
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

/** An event that the session handles. */
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

/** An action for the driver. A push with a number needs a `pushed` event; one without answers a frame. */
type Action =
  | { type: "push"; to: string; text: string; push: number | null }
  | { type: "close"; id: string; last: string | null }
  | { type: "check"; id: string }
  | { type: "end"; why: string };

export interface Step {
  actions: Action[];
  /** Input for the shell. */
  write: { clientId: string; bytes: Payload } | null;
  /** Bytes that the driver may read from the shell. */
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
    throw new Error("the session module is missing; run `npm run build:session`", { cause });
  }
}

export class Session {
  readonly #exports: Exports;

  constructor() {
    compiled ??= load();
    this.#exports = new WebAssembly.Instance(compiled).exports as unknown as Exports;
  }

  /** Handles an event at `now`, in ms after the start. Throws the message of a panic. */
  handle(now: number, event: Event): Step {
    const bytes = Buffer.from(JSON.stringify({ now, ...event }));
    this.#buffer(bytes.length).set(bytes);
    let panicked = false;
    try {
      this.#exports.handle();
    } catch {
      panicked = true;
    }
    const text = Buffer.from(this.#buffer(this.#exports.length())).toString();
    if (panicked) throw new Error(text);
    return JSON.parse(text);
  }

  #buffer(length: number): Uint8Array {
    const at = this.#exports.buffer(length);
    return new Uint8Array(this.#exports.memory.buffer, at, length);
  }
}
