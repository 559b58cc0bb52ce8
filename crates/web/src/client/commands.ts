// `command` frames: asked again under the same id until answered, so each runs once whatever is lost.
import type { ClientFrame, ErrorFrame, ServerFrame } from "../protocol.gen.js";
import { TerminalError } from "./errors.js";
import { COMMAND_GRACE, COMMAND_RETRY, COMMAND_RETRY_MAX, COMMAND_TIMEOUT } from "./limits.js";
import { randomId } from "./lock.js";
import { Timers } from "./timers.js";

export type CommandResult = Omit<Extract<ServerFrame, { type: "command_result" }>, "type">;

export interface CommandOptions {
  /** Killed after this many milliseconds (default 25,000, at most 600,000). */
  timeoutMs?: number;
  /** A repeat of the same id gives the first run's result. Random by default. */
  id?: string;
}

interface Pending {
  frame: ClientFrame;
  wait: number;
  lastError?: TerminalError;
  resolve(result: CommandResult): void;
  reject(error: TerminalError): void;
}

export class Commands {
  #pending = new Map<string, Pending>();
  #timers = new Timers();

  constructor(private readonly send: (frame: ClientFrame) => boolean) {}

  run(command: string, options: CommandOptions = {}): Promise<CommandResult> {
    const id = options.id ?? randomId();
    const { timeoutMs } = options;
    const frame: ClientFrame = { type: "command", command, id, timeoutMs };
    return new Promise((resolve, reject) => {
      if (this.#pending.has(id)) {
        reject(new TerminalError("COMMAND_FAILED", `The id ${id} is in use.`, false));
        return;
      }
      const pending: Pending = { frame, wait: COMMAND_RETRY, resolve, reject };
      this.#pending.set(id, pending);
      this.#timers.set(`${id} deadline`, (timeoutMs ?? COMMAND_TIMEOUT) + COMMAND_GRACE, () =>
        this.#fail(
          id,
          pending.lastError ?? new TerminalError("COMMAND_TIMEOUT", "No answer to the command came.", true),
        ),
      );
      this.#ask(id, pending);
    });
  }

  /** After a reconnect: asks for everything still open. */
  again(): void {
    for (const [id, pending] of this.#pending) this.#ask(id, pending);
  }

  result(result: CommandResult): void {
    this.#take(result.id)?.resolve(result);
  }

  /** True if the error is the answer to a command. */
  error(frame: ErrorFrame): boolean {
    const pending = frame.ref === undefined ? undefined : this.#pending.get(frame.ref);
    if (!pending || frame.ref === undefined) return false;
    const error = new TerminalError(frame.code, frame.message, frame.retryable);
    if (frame.retryable) pending.lastError = error;
    else this.#fail(frame.ref, error);
    return true;
  }

  close(error: TerminalError): void {
    for (const id of [...this.#pending.keys()]) this.#fail(id, error);
    this.#timers.clearAll();
  }

  #ask(id: string, pending: Pending): void {
    this.send(pending.frame);
    this.#timers.set(id, pending.wait, () => this.#ask(id, pending));
    pending.wait = Math.min(2 * pending.wait, COMMAND_RETRY_MAX);
  }

  #fail(id: string, error: TerminalError): void {
    this.#take(id)?.reject(error);
  }

  #take(id: string): Pending | undefined {
    const pending = this.#pending.get(id);
    this.#pending.delete(id);
    this.#timers.clear(id);
    this.#timers.clear(`${id} deadline`);
    return pending;
  }
}
