// `command` frames. Each is sent again under the same id until a result arrives; the server runs an id once, so losses
// and reconnects never repeat a command.
import type { ClientFrame, ErrorFrame, ServerFrame } from "../protocol.gen.js";
import { TerminalError } from "./errors.js";
import { randomId } from "./ids.js";
import { COMMAND_GRACE, COMMAND_RETRY, COMMAND_RETRY_MAX, COMMAND_TIMEOUT } from "./limits.js";
import { Timers } from "./timers.js";

export type CommandResult = Omit<Extract<ServerFrame, { type: "command_result" }>, "type">;

export interface CommandOptions {
  /** The server kills the command after this many milliseconds (default 25,000, at most 600,000). */
  timeoutMs?: number;
  /** Idempotency key: repeating an id returns the first run's result. Random by default. */
  id?: string;
}

interface Pending {
  frame: ClientFrame;
  retryDelay: number;
  lastError?: TerminalError;
  resolve(result: CommandResult): void;
  reject(error: TerminalError): void;
}

export class Commands {
  #pending = new Map<string, Pending>();
  #timers = new Timers();

  constructor(private readonly sendFrame: (frame: ClientFrame) => boolean) {}

  run(command: string, options: CommandOptions = {}): Promise<CommandResult> {
    const id = options.id ?? randomId();
    const { timeoutMs } = options;
    const frame: ClientFrame = { type: "command", command, id, timeoutMs };
    return new Promise((resolve, reject) => {
      if (this.#pending.has(id)) {
        reject(new TerminalError("COMMAND_FAILED", `The id ${id} is in use.`, false));
        return;
      }
      const pending: Pending = { frame, retryDelay: COMMAND_RETRY, resolve, reject };
      this.#pending.set(id, pending);
      this.#timers.set(`${id} deadline`, (timeoutMs ?? COMMAND_TIMEOUT) + COMMAND_GRACE, () =>
        this.#reject(
          id,
          pending.lastError ?? new TerminalError("COMMAND_TIMEOUT", "The command timed out without a result.", true),
        ),
      );
      this.#send(id, pending);
    });
  }

  /** Sends every pending command again; call after a reconnect. */
  resend(): void {
    for (const [id, pending] of this.#pending) this.#send(id, pending);
  }

  handleResult(result: CommandResult): void {
    this.#take(result.id)?.resolve(result);
  }

  /** Returns whether the error belongs to a command. */
  handleError(frame: ErrorFrame): boolean {
    const pending = frame.ref === undefined ? undefined : this.#pending.get(frame.ref);
    if (!pending || frame.ref === undefined) return false;
    const error = new TerminalError(frame.code, frame.message, frame.retryable);
    if (frame.retryable) pending.lastError = error;
    else this.#reject(frame.ref, error);
    return true;
  }

  /** Rejects every pending command with `error`. */
  close(error: TerminalError): void {
    for (const id of [...this.#pending.keys()]) this.#reject(id, error);
    this.#timers.clearAll();
  }

  #send(id: string, pending: Pending): void {
    this.sendFrame(pending.frame);
    this.#timers.set(id, pending.retryDelay, () => this.#send(id, pending));
    pending.retryDelay = Math.min(2 * pending.retryDelay, COMMAND_RETRY_MAX);
  }

  #reject(id: string, error: TerminalError): void {
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
