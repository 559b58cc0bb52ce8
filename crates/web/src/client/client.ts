// TerminalClient: keeps a session connected, and tells how it goes. Framework-free; see README for the contract.
import type { ClientFrame, ServerFrame } from "../protocol.gen.js";
import { fullJitter } from "./backoff.js";
import { utf8 } from "./bytes.js";
import { type CommandOptions, type CommandResult, Commands } from "./commands.js";
import { Connection } from "./connection.js";
import { address, askWhy, readToken, staticProblem } from "./diagnose.js";
import { type Diagnostics, Vitals } from "./diagnostics.js";
import { Emitter } from "./emitter.js";
import { closeError, TerminalError, type TerminalErrorCode } from "./errors.js";
import {
  FETCH_TIMEOUT,
  MAX_RETRIES,
  PLANNED_JITTER,
  PLANNED_RECONNECT,
  PLANNED_RETRY,
  STABLE_AFTER,
  SUBPROTOCOL,
  TOKEN_RENEW_BEFORE,
} from "./limits.js";
import { type ClientName, claimName, keepName, takeName } from "./lock.js";
import { type OutputSink, tee } from "./output.js";
import { Streams } from "./streams.js";
import { Timers } from "./timers.js";
import type { ClientEvents, ClientOptions, Status } from "./types.js";
import { watchPage } from "./wake.js";

/** Frames that answer nothing: most are pushed, which says nothing of the way to the backend. */
const UNASKED = new Set<ServerFrame["type"]>(["connected", "output", "snapshot", "exit", "notice", "error"]);

export class TerminalClient extends Emitter<ClientEvents> {
  #options: ClientOptions;
  #status: Status = { state: "idle", readOnly: false };
  #streams: Streams;
  #commands: Commands;
  #timers = new Timers();
  #vitals = new Vitals();
  #sink: OutputSink | undefined;
  #name: ClientName | undefined;
  #current: Connection | undefined;
  #next: Connection | undefined; // a planned one, until it is attached
  #unwatch: (() => void) | undefined;
  #run = 0; // outdates what was awaited for
  #abort = new AbortController();
  #exited = false;
  #refused = false; // the server will not have this connection for long: how to go on is decided
  #troubled = 0; // how often the backend was asked whether it answers again

  constructor(options: ClientOptions) {
    super();
    this.#options = { ...options };
    const sink = tee(
      (bytes) => this.emit("output", bytes),
      () => this.#sink,
    );
    this.#streams = new Streams(
      {
        sink: () => sink,
        restart: (discarded) => {
          this.#exited = false;
          this.emit("restart", discarded);
        },
        gap: (bytes) => this.emit("gap", bytes),
        exit: (exit) => {
          this.#exited = true;
          this.emit("exit", exit);
        },
        forgotten: () => void this.#rename(),
      },
      () => this.#vitals.roundTrips.median ?? 0,
    );
    this.#streams.cols = options.cols ?? 80;
    this.#streams.rows = options.rows ?? 24;
    // Once attached, the server knows whose command it is, whatever becomes of this connection.
    this.#commands = new Commands((frame) => this.#status.state === "connected" && this.send(frame));
  }

  get status(): Status {
    return this.#status;
  }

  get token(): string | undefined {
    return this.#options.token;
  }

  get sessionId(): string {
    return this.#options.sessionId ?? readToken(this.#options.token).sessionId ?? "";
  }

  /** Where output goes, with flow control: what is not `done` is not acknowledged. Set it before connect(). */
  set sink(sink: OutputSink | undefined) {
    this.#sink = sink;
    // A terminal that comes later is empty: have everything again.
    if (sink && this.#streams.output.next > 0) this.#streams.replay();
  }

  /** Starts, unless it runs already. */
  connect(): void {
    const { state } = this.#status;
    if (state !== "idle" && state !== "closed") return;
    this.#unwatch = watchPage(this.#wake, () => {
      if (this.#name && this.#streams.input.pending === 0) keepName(this.sessionId, this.#name);
    });
    this.reconnect();
  }

  /** Tries at once, counting anew; also after a failure, or when another window took over. */
  reconnect(): void {
    const { state } = this.#status;
    if (state === "connected") return this.#current?.probe();
    this.#vitals.attempts = 0;
    this.#exited = false;
    this.#drop();
    this.#set({ state: "connecting" });
    void this.#open();
  }

  /** Ends everything: no timer, listener, lock or socket stays. */
  close(): void {
    this.#streams.leave();
    this.#drop();
    this.#commands.close(new TerminalError("CLOSED", "The terminal was closed.", false));
    this.#unwatch?.();
    this.#name?.release();
    this.#name = undefined;
    this.#set({ state: "closed" });
  }

  /** Types into the shell. False, and an INPUT_QUEUE_FULL or READ_ONLY error, if it was not taken. */
  input(data: string | Uint8Array): boolean {
    if (this.#streams.send(typeof data === "string" ? utf8(data) : data)) return true;
    const [code, why]: [TerminalErrorCode, string] = this.#streams.readOnly
      ? ["READ_ONLY", "This link only allows to watch."]
      : ["INPUT_QUEUE_FULL", "Too much input is waiting."];
    this.#report(new TerminalError(code, why, false));
    return false;
  }

  resize(cols: number, rows: number): void {
    this.#streams.resize(cols, rows);
  }

  /** Runs a command beside the shell, once, whatever becomes of the connection. */
  command(command: string, options?: CommandOptions): Promise<CommandResult> {
    return this.#commands.run(command, options);
  }

  /** Any frame as it is; false while there is no connection. */
  send(frame: ClientFrame): boolean {
    return this.#current?.send(frame) ?? false;
  }

  ping(): void {
    if (this.#current?.opened) this.#current.ping();
  }

  /** A token for the next connection; `renew` makes one now, without a break. */
  setToken(token: string, renew = false): void {
    this.#options.token = token;
    this.emit("token", token);
    if (renew && this.#status.state === "connected") this.#plan(0);
    else this.#planRenewal();
  }

  get diagnostics(): Diagnostics {
    const { sessionId } = this;
    return this.#vitals.diagnostics(
      address(this.#options, sessionId, "***"),
      sessionId,
      this.#status.state,
      this.#streams,
    );
  }

  // The way to a connection.

  async #open(): Promise<void> {
    const run = ++this.#run;
    const { refreshToken, attach } = this.#options;
    if (globalThis.navigator?.onLine === false) return this.#offline();
    const ends = readToken(this.#options.token).expiresAt;
    if (refreshToken && (!this.#options.token || (ends !== undefined && ends <= Date.now()))) {
      await this.#refresh();
      if (run !== this.#run) return;
    }
    const { url, token } = this.#options;
    const problem = staticProblem(url, token);
    if (problem) return this.#fail(problem);
    if (attach !== false && !this.#name) {
      const name = await claimName(this.sessionId);
      if (run !== this.#run) return name.release();
      this.#name = name;
      if (this.#streams.clientId && this.#streams.clientId !== name.id) this.#streams.rename(name.id);
      this.#streams.clientId = name.id;
    }
    this.#refused = false;
    if (this.#status.retryAt !== undefined) this.#set({ state: "reconnecting" });
    this.#current = this.#connection();
  }

  #connection(): Connection | undefined {
    const { tokenIn, token = "" } = this.#options;
    const protocols = tokenIn === "protocol" ? [SUBPROTOCOL, `bearer.${token}`] : [];
    try {
      return new Connection(
        this.#options.WebSocket ?? WebSocket,
        address(this.#options, this.sessionId, token),
        protocols,
        {
          open: (connection) => {
            this.#vitals.accepted = true;
            if (this.#options.attach !== false) this.#streams.attach(connection);
            else this.#up(connection);
          },
          frame: (connection, frame) => this.#frame(connection, frame),
          close: (connection, code, reason) => void this.#closed(connection, code, reason),
          traffic: this.#vitals.traffic,
          pingOffset: () => this.#streams.ackOffset,
          roundTrip: (ms) => {
            this.#vitals.roundTrip(ms);
            this.emit("roundTrip", ms);
          },
        },
      );
    } catch (error) {
      this.#fail(new TerminalError("WEBSOCKET_CREATION_FAILED", String(error), false));
      return undefined;
    }
  }

  /** `connection` is the one from now on. */
  #up(connection: Connection): void {
    if (connection === this.#next) {
      this.#next = undefined;
      if (this.#current) this.#retire(this.#current);
      this.#current = connection;
    }
    this.#vitals.connectionTime = connection.openedAt - connection.startedAt;
    this.#vitals.attached++;
    this.#set({ state: "connected" });
    this.#timers.set("planned", PLANNED_RECONNECT - (this.#options.random ?? Math.random)() * PLANNED_JITTER, () =>
      this.#plan(0),
    );
    this.#planRenewal();
    this.#commands.again();
    connection.ping();
  }

  /** A new connection first, then the old one goes: nobody notices. */
  #plan(wait: number): void {
    this.#timers.set("planned", wait, () => {
      if (this.#status.state === "connected" && !this.#next) this.#next = this.#connection();
    });
  }

  #planRenewal(): void {
    const { refreshToken, token } = this.#options;
    const ends = readToken(token).expiresAt;
    if (!refreshToken || ends === undefined) return;
    const wait = Math.max(TOKEN_RENEW_BEFORE / 2, ends - TOKEN_RENEW_BEFORE - Date.now()); // not on and on
    this.#timers.set("token", Math.min(wait, 2 ** 31 - 1), async () => {
      const run = this.#run;
      if ((await this.#refresh()) && run === this.#run) this.#plan(0);
    });
  }

  /** True if there is a new token. */
  async #refresh(): Promise<boolean> {
    const run = this.#run;
    try {
      const token = await Promise.race([
        this.#options.refreshToken?.(),
        new Promise<never>((_, reject) =>
          this.#timers.set("refresh", FETCH_TIMEOUT, () => reject(new Error("no answer"))),
        ),
      ]);
      this.#timers.clear("refresh");
      if (run !== this.#run || !token || token === this.#options.token) return false;
      this.#options.token = token;
      this.emit("token", token);
      return true;
    } catch (error) {
      this.#timers.clear("refresh");
      if (run === this.#run) this.#report(new TerminalError("TOKEN_EXPIRED", `No new token: ${error}`, true));
      return false;
    }
  }

  // What a connection says.

  #frame(connection: Connection, frame: ServerFrame): void {
    if (connection !== this.#current && connection !== this.#next) return;
    this.emit("frame", frame);
    if (!UNASKED.has(frame.type)) this.#answered();
    switch (frame.type) {
      case "connected":
        this.#vitals.connectionId = frame.connectionId;
        break;
      case "attached":
        this.emit("size", { cols: frame.cols, rows: frame.rows });
        if (this.#streams.attached(connection, frame)) {
          if (connection === this.#current && this.#status.state === "connected") this.#set({ state: "connected" });
          else this.#up(connection);
        }
        break;
      case "output":
        this.#streams.onOutput(frame);
        break;
      case "snapshot":
        this.#streams.onSnapshot(frame);
        break;
      case "input_ack":
        if (frame.clientId === this.#streams.clientId && frame.epoch === this.#streams.output.epoch) {
          this.#streams.onInputAck(frame.inputOffset);
        }
        break;
      case "exit":
        this.#streams.onExit(frame);
        break;
      case "resize_ack":
        this.#streams.onSize();
        this.emit("size", { cols: frame.cols, rows: frame.rows });
        break;
      case "command_result":
        this.#commands.result(frame);
        break;
      case "notice":
        this.emit("notice", frame);
        if (frame.code === "SHELL_RESTARTED") this.#streams.detached(connection);
        break;
      case "error":
        this.#errorFrame(connection, frame);
    }
  }

  #errorFrame(connection: Connection, frame: Extract<ServerFrame, { type: "error" }>): void {
    if (this.#commands.error(frame)) return;
    const { code, ref } = frame;
    const error = new TerminalError(code, frame.message, frame.retryable);
    switch (code) {
      case "NOT_ATTACHED":
        return this.#streams.detached(connection);
      case "INPUT_GAP":
        return this.#streams.onInputGap(frame.inputOffset);
      case "REPLACED":
        // Said to the old connection of a planned pair, it is what we wanted.
        if (connection === this.#current && !this.#next) this.#fail(error);
        return;
      case "READ_ONLY":
        this.#streams.readOnly = true;
        this.#streams.input.discard();
        this.#streams.timers.clear("resend");
        this.#set(this.#status);
        break;
      case "TOKEN_EXPIRED":
        void this.#expired(connection, error);
        return;
      case "SESSION_INVALID":
      case "SESSION_EXPIRED":
        if (!frame.retryable) return this.#fail(error);
        break;
      case "FORBIDDEN":
        if (!ref || ref === "attach") return this.#fail(error);
    }
    this.#report(error);
    if (error.retryable && this.#status.state === "connected") this.#trouble(error);
  }

  /** On a line that lives: shows it until the backend answers, and asks, or a quiet line would not learn of it. */
  #trouble(error: TerminalError): void {
    this.#set({ state: "connected", error });
    if (this.#timers.has("ask")) return;
    this.#timers.set("ask", fullJitter(this.#troubled++, this.#options.random), () => this.ping());
  }

  #answered(): void {
    this.#vitals.answered();
    this.#troubled = 0;
    this.#timers.clear("ask");
    if (this.#status.state === "connected" && this.#status.error) this.#set({ state: "connected" });
  }

  async #expired(connection: Connection, error: TerminalError): Promise<void> {
    if (connection === this.#next || this.#refused) return;
    if (!this.#options.refreshToken) return this.#fail(error);
    this.#refused = true;
    this.#report(error);
    const run = this.#run;
    const refreshed = await this.#refresh();
    if (run !== this.#run) return;
    if (!refreshed) return this.#fail(error);
    if (this.#current) this.#retire(this.#current);
    this.#current = undefined;
    this.#set({ state: "reconnecting" });
    void this.#open();
  }

  async #closed(connection: Connection, code: number, reason: string): Promise<void> {
    this.#streams.lost(connection);
    if (connection === this.#next) {
      this.#next = undefined;
      return this.#plan(PLANNED_RETRY);
    }
    if (connection !== this.#current) return;
    this.#current = this.#next;
    this.#next = undefined;
    if (this.#refused) return; // a new token is on its way
    const error = closeError(code, reason);
    if (this.#exited) {
      this.#drop();
      return this.#set({ state: "ended" });
    }
    if (error && !error.retryable) return this.#fail(error);
    if (!connection.opened && !this.#current) return this.#refusal(error);
    if (error) this.#report(error);
    if (this.#current) return this.#set({ state: "reconnecting" });
    if (performance.now() - connection.openedAt >= STABLE_AFTER) this.#vitals.attempts = 0;
    this.#retry(error);
  }

  /** A handshake was refused, which browsers show as 1006: asks why, and goes on as that says. */
  async #refusal(error: TerminalError | undefined): Promise<void> {
    const run = this.#run;
    const { accepted, attached } = this.#vitals;
    this.#set({ state: attached > 0 ? "reconnecting" : "connecting" });
    const why = (await askWhy(this.#options, this.sessionId, accepted, this.#abort)) ?? error;
    const renewed = run === this.#run && why?.code === "TOKEN_EXPIRED" && (await this.#refresh());
    if (run !== this.#run) return;
    if (renewed) return this.#retry(error); // As any other attempt: after a while, and not for ever.
    if (why && !why.retryable) return this.#fail(why);
    if (why) this.#report(why);
    this.#retry(why);
  }

  #retry(error: TerminalError | undefined): void {
    if (globalThis.navigator?.onLine === false) return this.#offline();
    if (this.#vitals.attempts >= (this.#options.maxRetries ?? MAX_RETRIES)) {
      const why = `Could not connect. ${this.#vitals.lastError?.message ?? ""}`;
      return this.#fail(new TerminalError("MAX_RETRIES_EXCEEDED", why, true));
    }
    const wait = fullJitter(this.#vitals.attempts++, this.#options.random);
    this.#set({ state: "reconnecting", retryAt: Date.now() + wait, error });
    this.#timers.set("retry", wait, () => void this.#open());
  }

  // States, and what changes them from outside.

  #offline(): void {
    const error = new TerminalError("OFFLINE", "There is no network.", true);
    this.#vitals.lastError = error;
    this.#set({ state: "offline", error });
  }

  #fail(error: TerminalError): void {
    this.#report(error);
    this.#drop();
    this.#set({ state: "failed", error });
  }

  #report(error: TerminalError): void {
    this.#vitals.failed(error);
    this.emit("error", error);
  }

  #set(status: Omit<Status, "readOnly">): void {
    this.#status = { ...status, readOnly: this.#streams.readOnly };
    this.emit("status", this.#status);
  }

  /** No connection, no timer, and nothing awaited counts any more. */
  #drop(): void {
    this.#run++;
    this.#abort.abort();
    this.#abort = new AbortController();
    this.#timers.clearAll();
    for (const connection of [this.#current, this.#next]) if (connection) this.#retire(connection);
    this.#current = this.#next = undefined;
    this.#streams.timers.clearAll();
  }

  #retire(connection: Connection): void {
    connection.drop();
    this.#streams.lost(connection);
  }

  async #rename(): Promise<void> {
    const run = this.#run;
    const name = await takeName();
    if (run !== this.#run) return name.release();
    this.#name?.release();
    this.#name = name;
    this.#streams.rename(name.id);
  }

  #wake = (): void => {
    const { state, error } = this.#status;
    const gaveUp = state === "failed" && error?.code === "MAX_RETRIES_EXCEEDED";
    if (state === "connected") this.#current?.probe();
    else if (state === "offline" || gaveUp || this.#timers.has("retry")) this.reconnect();
  };
}
