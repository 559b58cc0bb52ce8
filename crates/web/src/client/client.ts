// TerminalClient: the public API, and what each frame of the server does. Framework-free; README.md is the contract.
import type { ClientFrame, ServerFrame } from "../protocol.gen.js";
import { fullJitter } from "./backoff.js";
import { utf8 } from "./bytes.js";
import { type CommandOptions, type CommandResult, Commands } from "./commands.js";
import type { Connection } from "./connection.js";
import { type Diagnostics, Stats } from "./diagnostics.js";
import { Emitter } from "./emitter.js";
import { TerminalError, type TerminalErrorCode } from "./errors.js";
import { socketUrl } from "./handshake.js";
import { type ClientId, claimClientId, newClientId, saveClientId } from "./ids.js";
import { type OutputSink, tee } from "./output.js";
import { watchPage } from "./page-events.js";
import { Reconnector } from "./reconnect.js";
import { Streams } from "./streams.js";
import { Timers } from "./timers.js";
import { readToken, TokenSource } from "./token.js";
import type { ClientEvents, ClientOptions, Status } from "./types.js";

/** Frames that may arrive without a request, and so do not prove that the backend receives any. */
const UNSOLICITED = new Set<ServerFrame["type"]>(["connected", "output", "snapshot", "exit", "notice", "error"]);

export class TerminalClient extends Emitter<ClientEvents> {
  #options: ClientOptions;
  #status: Status = { state: "idle", readOnly: false };
  #stats = new Stats();
  #timers = new Timers();
  #tokens: TokenSource;
  #reconnector: Reconnector;
  #streams: Streams;
  #commands: Commands;
  #sink: OutputSink | undefined;
  #clientId: ClientId | undefined;
  #unwatch: (() => void) | undefined;
  #run = 0; // outdates a client id that #drop() interrupted
  #backendProbes = 0; // pings since the backend last answered

  constructor(options: ClientOptions) {
    super();
    this.#options = { ...options };
    this.#tokens = new TokenSource(options.token, options.refreshToken, {
      changed: (token) => this.emit("token", token),
      error: (error) => this.#report(error),
    });
    this.#streams = this.#makeStreams();
    this.#reconnector = this.#makeReconnector();
    // Only an attached connection: from then on the server knows the client, and resumes its command on the next one.
    this.#commands = new Commands((frame) => this.#status.state === "connected" && this.send(frame));
  }

  get status(): Status {
    return this.#status;
  }

  get token(): string | undefined {
    return this.#tokens.current;
  }

  get sessionId(): string {
    return this.#options.sessionId ?? readToken(this.token).sessionId ?? "";
  }

  /** Receives output with flow control: output is acknowledged once the sink calls `done`. Set it before connect(). */
  set sink(sink: OutputSink | undefined) {
    this.#sink = sink;
    // A terminal attached later is empty, so request the output again.
    if (sink && this.#streams.output.next > 0) this.#streams.replay();
  }

  /** Connects, unless already started. */
  connect(): void {
    const { state } = this.#status;
    if (state !== "idle" && state !== "closed") return;
    this.#unwatch = watchPage(this.#wake, () => {
      if (this.#clientId && this.#streams.input.buffered === 0) saveClientId(this.sessionId, this.#clientId);
    });
    this.reconnect();
  }

  /** Connects now and resets the retry count, also after a failure. A connection that is up is only probed. */
  reconnect(): void {
    if (this.#status.state === "connected") return this.#reconnector.current?.probe();
    this.#stats.attempts = 0;
    this.#drop();
    this.#reconnector.exited = false;
    this.#setStatus({ state: "connecting" });
    void this.#reconnector.open();
  }

  /** Closes the client. No timer, listener, lock or socket remains. */
  close(): void {
    this.#streams.detach();
    this.#drop();
    this.#commands.close(new TerminalError("CLOSED", "The terminal was closed.", false));
    this.#unwatch?.();
    this.#clientId?.release();
    this.#clientId = undefined;
    this.#setStatus({ state: "closed" });
  }

  /** Types into the shell. Returns false, and emits INPUT_QUEUE_FULL or READ_ONLY, if it took nothing. */
  input(data: string | Uint8Array): boolean {
    if (this.#streams.send(typeof data === "string" ? utf8(data) : data)) return true;
    const [code, message]: [TerminalErrorCode, string] = this.#streams.readOnly
      ? ["READ_ONLY", "This link is view-only."]
      : ["INPUT_QUEUE_FULL", "The input queue is full."];
    this.#report(new TerminalError(code, message, false));
    return false;
  }

  resize(cols: number, rows: number): void {
    this.#streams.resize(cols, rows);
  }

  /** Runs a command beside the shell, exactly once, even across reconnects. */
  command(command: string, options?: CommandOptions): Promise<CommandResult> {
    return this.#commands.run(command, options);
  }

  /** Sends any frame as it is. Returns false if there is no open connection. */
  send(frame: ClientFrame): boolean {
    return this.#reconnector.current?.send(frame) ?? false;
  }

  ping(): void {
    const connection = this.#reconnector.current;
    if (connection?.opened) connection.ping();
  }

  /** Sets the token for the next connection. `renew` opens that connection now, without an interruption. */
  setToken(token: string, renew = false): void {
    this.#tokens.set(token);
    if (renew && this.#status.state === "connected") this.#reconnector.replace();
    else this.#reconnector.scheduleRenewal();
  }

  get diagnostics(): Diagnostics {
    const { sessionId } = this;
    const url = socketUrl(this.#options, sessionId, "***");
    return this.#stats.diagnostics(url, sessionId, this.#status.state, this.#streams);
  }

  #makeStreams(): Streams {
    const { cols = 80, rows = 24 } = this.#options;
    const sink = tee(
      (bytes) => this.emit("output", bytes),
      () => this.#sink,
    );
    const streams = new Streams(
      {
        sink: () => sink,
        restart: (discarded) => {
          this.#reconnector.exited = false;
          this.emit("restart", discarded);
        },
        gap: (bytes) => this.emit("gap", bytes),
        exit: (exit) => {
          this.#reconnector.exited = true;
          this.emit("exit", exit);
        },
        forgotten: () => void this.#renewClientId(),
      },
      () => this.#stats.roundTrip.median ?? 0,
    );
    streams.cols = cols;
    streams.rows = rows;
    return streams;
  }

  #makeReconnector(): Reconnector {
    return new Reconnector(this.#options, this.#tokens, this.#stats, this, {
      status: (status) => this.#setStatus(status),
      prepare: (stale) => this.#claimClientId(stale),
      open: (connection) => {
        if (this.#options.attach !== false) this.#streams.attach(connection);
        else this.#establish(connection);
      },
      frame: (connection, frame) => this.#handleFrame(connection, frame),
      lost: (connection) => this.#streams.lost(connection),
      roundTrip: (ms) => {
        this.#stats.recordRoundTrip(ms);
        this.emit("roundTrip", ms);
      },
      pingOffset: () => this.#streams.ackOffset,
      error: (error) => this.#report(error),
      fail: (error) => this.#fail(error),
      end: () => {
        this.#drop();
        this.#setStatus({ state: "ended" });
      },
    });
  }

  #establish(connection: Connection): void {
    this.#reconnector.establish(connection);
    this.#commands.resend();
    connection.ping();
  }

  #handleFrame(connection: Connection, frame: ServerFrame): void {
    if (!this.#reconnector.owns(connection)) return;
    this.emit("frame", frame);
    if (!UNSOLICITED.has(frame.type)) this.#backendAnswered();
    switch (frame.type) {
      case "connected":
        this.#stats.connectionId = frame.connectionId;
        break;
      case "attached":
        this.emit("size", { cols: frame.cols, rows: frame.rows });
        if (this.#streams.handleAttached(connection, frame)) {
          const again = connection === this.#reconnector.current && this.#status.state === "connected";
          if (again) this.#setStatus({ state: "connected" });
          else this.#establish(connection);
        }
        break;
      case "output":
        this.#streams.handleOutput(frame);
        break;
      case "snapshot":
        this.#streams.handleSnapshot(frame);
        break;
      case "input_ack":
        this.#streams.handleInputAck(frame);
        break;
      case "exit":
        this.#streams.handleExit(frame);
        break;
      case "resize_ack":
        this.#streams.handleResizeAck();
        this.emit("size", { cols: frame.cols, rows: frame.rows });
        break;
      case "command_result":
        this.#commands.handleResult(frame);
        break;
      case "notice":
        this.emit("notice", frame);
        if (frame.code === "SHELL_RESTARTED") this.#streams.reattach(connection);
        break;
      case "error":
        this.#handleError(connection, frame);
    }
  }

  #handleError(connection: Connection, frame: Extract<ServerFrame, { type: "error" }>): void {
    if (this.#commands.handleError(frame)) return;
    const { code, ref } = frame;
    const error = new TerminalError(code, frame.message, frame.retryable);
    switch (code) {
      case "NOT_ATTACHED":
        return this.#streams.reattach(connection);
      case "INPUT_GAP":
        return this.#streams.handleInputGap(frame.inputOffset);
      case "REPLACED":
        // During a planned reconnect the client itself replaces the old connection.
        if (connection === this.#reconnector.current && !this.#reconnector.replacing) this.#fail(error);
        return;
      case "READ_ONLY":
        this.#streams.makeReadOnly();
        this.#setStatus(this.#status);
        break;
      case "TOKEN_EXPIRED":
        void this.#reconnector.tokenExpired(connection, error);
        return;
      case "SESSION_INVALID":
      case "SESSION_EXPIRED":
        if (!frame.retryable) return this.#fail(error);
        break;
      case "FORBIDDEN":
        if (!ref || ref === "attach") return this.#fail(error);
    }
    this.#report(error);
    if (error.retryable && this.#status.state === "connected") this.#backendFailing(error);
  }

  /** Shows the error until the backend answers. Pings with backoff, because an idle client sends nothing to answer. */
  #backendFailing(error: TerminalError): void {
    this.#setStatus({ state: "connected", error });
    if (this.#timers.has("backend")) return;
    this.#timers.set("backend", fullJitter(this.#backendProbes++, this.#options.random), () => this.ping());
  }

  #backendAnswered(): void {
    this.#stats.recordAnswer();
    this.#backendProbes = 0;
    this.#timers.clear("backend");
    if (this.#status.state === "connected" && this.#status.error) this.#setStatus({ state: "connected" });
  }

  async #claimClientId(stale: () => boolean): Promise<void> {
    if (this.#options.attach === false || this.#clientId) return;
    const clientId = await claimClientId(this.sessionId);
    if (stale()) return clientId.release();
    this.#clientId = clientId;
    if (this.#streams.clientId && this.#streams.clientId !== clientId.id) this.#streams.rename(clientId.id);
    this.#streams.clientId = clientId.id;
  }

  async #renewClientId(): Promise<void> {
    const run = this.#run;
    const clientId = await newClientId();
    if (run !== this.#run) return clientId.release();
    this.#clientId?.release();
    this.#clientId = clientId;
    this.#streams.rename(clientId.id);
  }

  #fail(error: TerminalError): void {
    this.#report(error);
    this.#drop();
    this.#setStatus({ state: "failed", error });
  }

  #report(error: TerminalError): void {
    this.#stats.recordError(error);
    this.emit("error", error);
  }

  #setStatus(status: Omit<Status, "readOnly">): void {
    this.#status = { ...status, readOnly: this.#streams.readOnly };
    this.emit("status", this.#status);
  }

  #drop(): void {
    this.#run++;
    this.#timers.clearAll();
    this.#reconnector.drop();
    this.#streams.stopTimers();
  }

  #wake = (): void => {
    const { state, error } = this.#status;
    const gaveUp = state === "failed" && error?.code === "MAX_RETRIES_EXCEEDED";
    if (state === "connected") this.#reconnector.current?.probe();
    else if (state === "offline" || gaveUp || this.#reconnector.waiting) this.reconnect();
  };
}
