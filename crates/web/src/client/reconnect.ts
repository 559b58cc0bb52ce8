// Keeps a client connected: decides when to open a connection, when to replace it, when to retry, and when to give up.
import type { ServerFrame } from "../protocol.gen.js";
import { fullJitter } from "./backoff.js";
import { Connection } from "./connection.js";
import type { Stats } from "./diagnostics.js";
import { closeError, TerminalError } from "./errors.js";
import { configurationError, diagnoseRefusal, socketUrl } from "./handshake.js";
import { MAX_RETRIES, PLANNED_JITTER, PLANNED_RECONNECT, PLANNED_RETRY, STABLE_AFTER, SUBPROTOCOL } from "./limits.js";
import { Timers } from "./timers.js";
import type { TokenSource } from "./token.js";
import type { ClientOptions, Status } from "./types.js";

interface ReconnectorEvents {
  status(status: Omit<Status, "readOnly">): void;
  /** Called before each connection. `stale` returns true once the attempt has been superseded. */
  prepare(stale: () => boolean): Promise<void>;
  /** The handshake succeeded. */
  open(connection: Connection): void;
  frame(connection: Connection, frame: ServerFrame): void;
  /** `connection` was closed, by either side. */
  lost(connection: Connection): void;
  roundTrip(ms: number): void;
  pingOffset(): number | undefined;
  /** Reports an error after which the client continues. */
  error(error: TerminalError): void;
  /** Reports an error, drops the connection and stops. */
  fail(error: TerminalError): void;
  /** Drops the connection: the shell has exited. */
  end(): void;
}

export class Reconnector {
  /** Set once the shell has exited: the next close ends the session. */
  exited = false;
  #current: Connection | undefined;
  #next: Connection | undefined; // a planned replacement, until it is attached
  #timers = new Timers();
  #attempt = 0; // outdates whatever an earlier attempt awaits
  #abort = new AbortController();
  #renewing = false; // the server rejected the token; the new token's arrival decides how to continue, not the close

  constructor(
    private readonly options: ClientOptions,
    private readonly tokens: TokenSource,
    private readonly stats: Stats,
    private readonly client: { readonly sessionId: string; readonly status: Status },
    private readonly events: ReconnectorEvents,
  ) {}

  get current(): Connection | undefined {
    return this.#current;
  }

  /** Whether a planned replacement is being attached. */
  get replacing(): boolean {
    return this.#next !== undefined;
  }

  /** Whether a retry is scheduled. */
  get waiting(): boolean {
    return this.#timers.has("retry");
  }

  /** Whether frames of `connection` still count. */
  owns(connection: Connection): boolean {
    return connection === this.#current || connection === this.#next;
  }

  /** Opens a connection now. */
  async open(): Promise<void> {
    const attempt = ++this.#attempt;
    const stale = () => attempt !== this.#attempt;
    if (globalThis.navigator?.onLine === false) return this.#offline();
    if (this.tokens.refreshable && this.tokens.expired) {
      await this.tokens.refresh();
      if (stale()) return;
    }
    const error = configurationError(this.options.url, this.tokens.current);
    if (error) return this.events.fail(error);
    await this.events.prepare(stale);
    if (stale()) return;
    this.#renewing = false;
    if (this.client.status.retryAt !== undefined) this.events.status({ state: "reconnecting" });
    this.#current = this.#connect();
  }

  /** Makes `connection` the current one: it is attached, or needs no attaching. */
  establish(connection: Connection): void {
    if (connection === this.#next) {
      this.#next = undefined;
      if (this.#current) this.#retire(this.#current);
      this.#current = connection;
    }
    this.stats.connectionTime = connection.openedAt - connection.startedAt;
    this.stats.attached++;
    this.events.status({ state: "connected" });
    const jitter = (this.options.random ?? Math.random)() * PLANNED_JITTER;
    this.#scheduleReplacement(PLANNED_RECONNECT - jitter);
    this.scheduleRenewal();
  }

  /** Opens a second connection, and closes the current one once the second is attached. Interrupts nothing. */
  replace(): void {
    this.#scheduleReplacement(0);
  }

  /** Renews the token before it expires, and then the connection, which the old token opened. */
  scheduleRenewal(): void {
    this.tokens.scheduleRenewal(() => this.replace());
  }

  /** TOKEN_EXPIRED: the server closes the connection soon. Continues with a new token if one can be had. */
  async tokenExpired(connection: Connection, error: TerminalError): Promise<void> {
    if (connection === this.#next || this.#renewing) return;
    if (!this.tokens.refreshable) return this.events.fail(error);
    this.#renewing = true;
    this.events.error(error);
    const attempt = this.#attempt;
    const refreshed = await this.tokens.refresh();
    if (attempt !== this.#attempt) return;
    if (!refreshed) return this.events.fail(error);
    if (this.#current) this.#retire(this.#current);
    this.#current = undefined;
    this.events.status({ state: "reconnecting" });
    void this.open();
  }

  /** Closes all connections, stops all timers, and makes every pending await moot. */
  drop(): void {
    this.#attempt++;
    this.#abort.abort();
    this.#abort = new AbortController();
    this.#timers.clearAll();
    this.tokens.cancel();
    for (const connection of [this.#current, this.#next]) if (connection) this.#retire(connection);
    this.#current = this.#next = undefined;
  }

  #connect(): Connection | undefined {
    const { tokenIn } = this.options;
    const token = this.tokens.current ?? "";
    const protocols = tokenIn === "protocol" ? [SUBPROTOCOL, `bearer.${token}`] : [];
    try {
      return new Connection(
        this.options.WebSocket ?? WebSocket,
        socketUrl(this.options, this.client.sessionId, token),
        protocols,
        {
          open: (connection) => {
            this.stats.accepted = true;
            this.events.open(connection);
          },
          frame: (connection, frame) => this.events.frame(connection, frame),
          close: (connection, code, reason) => this.#closed(connection, code, reason),
          traffic: this.stats.traffic,
          pingOffset: () => this.events.pingOffset(),
          roundTrip: (ms) => this.events.roundTrip(ms),
        },
      );
    } catch (error) {
      this.events.fail(new TerminalError("WEBSOCKET_CREATION_FAILED", String(error), false));
      return undefined;
    }
  }

  #scheduleReplacement(delay: number): void {
    this.#timers.set("replace", delay, () => {
      if (this.client.status.state === "connected" && !this.#next) this.#next = this.#connect();
    });
  }

  #closed(connection: Connection, code: number, reason: string): void {
    this.events.lost(connection);
    if (connection === this.#next) {
      this.#next = undefined;
      return this.#scheduleReplacement(PLANNED_RETRY);
    }
    if (connection !== this.#current) return;
    this.#current = this.#next;
    this.#next = undefined;
    if (this.#renewing) return;
    if (this.exited) return this.events.end();
    const error = closeError(code, reason);
    if (error && !error.retryable) return this.events.fail(error);
    if (!connection.opened && !this.#current) return void this.#refused(error);
    if (error) this.events.error(error);
    if (this.#current) return this.events.status({ state: "reconnecting" });
    if (performance.now() - connection.openedAt >= STABLE_AFTER) this.stats.attempts = 0;
    this.#retry(error);
  }

  /** Browsers report a refused handshake as 1006. Its true cause decides how to continue. */
  async #refused(closed: TerminalError | undefined): Promise<void> {
    const attempt = this.#attempt;
    const { accepted, attached } = this.stats;
    this.events.status({ state: attached > 0 ? "reconnecting" : "connecting" });
    const { sessionId } = this.client;
    const cause = await diagnoseRefusal(this.options, sessionId, this.tokens.current ?? "", accepted, this.#abort);
    const error = cause ?? closed;
    const renewed = attempt === this.#attempt && error?.code === "TOKEN_EXPIRED" && (await this.tokens.refresh());
    if (attempt !== this.#attempt) return;
    if (renewed) return this.#retry(closed); // with backoff and counted, in case the new token is refused as well
    if (error && !error.retryable) return this.events.fail(error);
    if (error) this.events.error(error);
    this.#retry(error);
  }

  #retry(error: TerminalError | undefined): void {
    if (globalThis.navigator?.onLine === false) return this.#offline();
    if (this.stats.attempts >= (this.options.maxRetries ?? MAX_RETRIES)) {
      const message = `Could not connect. ${this.stats.lastError?.message ?? ""}`;
      return this.events.fail(new TerminalError("MAX_RETRIES_EXCEEDED", message, true));
    }
    const delay = fullJitter(this.stats.attempts++, this.options.random);
    this.events.status({ state: "reconnecting", retryAt: Date.now() + delay, error });
    this.#timers.set("retry", delay, () => void this.open());
  }

  #offline(): void {
    const error = new TerminalError("OFFLINE", "There is no network.", true);
    this.stats.lastError = error;
    this.events.status({ state: "offline", error });
  }

  #retire(connection: Connection): void {
    connection.drop();
    this.events.lost(connection);
  }
}
