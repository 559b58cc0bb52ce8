// One tab: a session, its client, its terminal and its recording.
import { Terminal } from "@xterm/xterm";
import { readToken, TerminalClient } from "../client";
import { type Attached, attachTerminal } from "../xterm";
import { h } from "./dom";
import { Recorder } from "./recorder";
import { ApiError, DIAGNOSTICS, devSession, expiry, extend, type Session } from "./session";
import { follow, settings } from "./settings";
import { terminalTheme } from "./themes";
import { ask, toast } from "./toast";

export const FONT =
  '"JetBrains Mono", ui-monospace, "SF Mono", "Cascadia Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace';
/** What “extend” asks for, in seconds. */
const EXTEND_BY = 3600;
/** Who typed so long ago is still there. */
const ACTIVE_WITHIN = 30 * 60_000;

export interface TabEvents {
  /** Anything the status line shows changed. */
  changed(tab: Tab): void;
  /** The session's address or token changed. */
  session(tab: Tab): void;
  /** What the user typed, as it should go out. */
  typed(text: string): string;
}

/** A new token revokes the one before, which other windows may hold: they hear of it here, and nobody else does. */
const renewals = new BroadcastChannel("shellbridge-token");
interface Renewal {
  sessionId: string;
  token: string;
  fresh: string;
}

let panes = 0;

export class Tab {
  readonly pane = h("div", { class: "pane", id: `pane-${++panes}`, attrs: { role: "tabpanel" } });
  readonly terminal: Terminal;
  title = "";
  /** Unix milliseconds; unknown until the server said it. */
  expiresAt: number | undefined;
  roundTrip: number | undefined;
  exit: string | undefined;
  client!: TerminalClient;
  binding!: Attached;
  recorder!: Recorder;
  #box = h("div", { class: "box" });
  #off: (() => void)[] = [];
  #observer = new ResizeObserver(() => this.binding?.refit());
  #usedAt = Date.now();
  #renewedAt = 0;
  #size: { cols: number; rows: number } | undefined;

  constructor(
    public session: Session,
    private readonly events: TabEvents,
  ) {
    this.pane.append(this.#box);
    this.terminal = new Terminal({
      allowProposedApi: true,
      cursorBlink: true,
      cursorStyle: "bar",
      cursorWidth: 2,
      fontFamily: FONT,
      fontSize: settings().fontSize,
      lineHeight: 1.25,
      macOptionIsMeta: true,
      minimumContrastRatio: 4.5,
      rescaleOverlappingGlyphs: true,
      screenReaderMode: settings().screenReader,
      scrollback: 10_000,
      overviewRuler: { width: 12 },
      theme: terminalTheme(),
    });
    this.terminal.onTitleChange((title) => {
      this.title = title;
      events.changed(this);
    });
  }

  /** Once the pane is in the document. */
  open(): void {
    this.terminal.open(this.#box);
    this.terminal.textarea?.setAttribute("aria-label", "Terminal input. Ctrl+Shift+Space opens the menu.");
    this.#off.push(
      follow((chosen) => {
        this.terminal.options.theme = terminalTheme();
        this.terminal.options.fontSize = chosen.fontSize;
        this.terminal.options.screenReaderMode = chosen.screenReader;
        if (this.binding) {
          this.binding.predict = chosen.predict;
          this.binding.refit();
        }
      }),
    );
    this.#observer.observe(this.pane);
    const renewed = ({ data }: MessageEvent<Renewal>) => {
      const { sessionId, token } = this.session;
      if (data.sessionId === sessionId && data.token === token) this.client.setToken(data.fresh, true);
    };
    renewals.addEventListener("message", renewed);
    this.#off.push(() => renewals.removeEventListener("message", renewed));
    this.#start();
  }

  get size(): { cols: number; rows: number } | undefined {
    return this.#size;
  }

  #start(): void {
    const { url, token, sessionId } = this.session;
    const client = new TerminalClient({
      url,
      token,
      sessionId,
      tokenIn: "protocol",
      diagnosticsUrl: DIAGNOSTICS,
      refreshToken: () => this.#refresh(),
    });
    this.client = client;
    this.recorder = new Recorder(client);
    this.binding = attachTerminal(client, this.terminal, {
      predict: settings().predict,
      typed: (text) => {
        this.#usedAt = Date.now();
        return this.events.typed(text);
      },
      allowClipboard: (text) => void this.#clipboard(text),
    });
    const changed = () => this.events.changed(this);
    client.on("status", (status) => {
      const came = status.state === "connected" && this.pane.dataset.state !== "connected";
      this.pane.dataset.state = status.state;
      if (came) {
        this.exit = undefined;
        void this.#learnExpiry();
      }
      // A retryable SESSION_INVALID is about the connection alone: the session lives, and the client connects again.
      const ended = status.error?.code === "SESSION_INVALID" || status.error?.code === "SESSION_EXPIRED";
      const gone = ended && !status.error?.retryable;
      if (gone && !status.readOnly) void this.#renewed();
      changed();
    });
    client.on("roundTrip", (ms) => {
      this.roundTrip = ms;
      changed();
    });
    client.on("size", (size) => {
      this.#size = size;
      changed();
    });
    client.on("token", (fresh) => {
      const { sessionId, token } = this.session;
      if (fresh === token) return;
      renewals.postMessage({ sessionId, token, fresh } satisfies Renewal);
      this.session = { ...this.session, token: fresh };
      this.events.session(this);
    });
    client.on("exit", ({ exitCode, signal }) => {
      this.exit = signal ? `The shell was ended by ${signal}.` : `The shell exited with ${exitCode}.`;
      changed();
    });
    client.on(
      "gap",
      (gap) => gap > 0 && toast(`${gap.toLocaleString()} bytes of output were too old to be sent again.`),
    );
    client.on("restart", () => toast("A new shell was started."));
    client.on("notice", ({ message }) => toast(message));
    client.on("error", (error) => {
      const shown = [
        "INPUT_QUEUE_FULL",
        "RATE_LIMITED",
        "BACKEND_UNAVAILABLE",
        "BACKEND_TIMEOUT",
        "HANDSHAKE_REFUSED",
        "INTERNAL",
        "READ_ONLY",
      ];
      if (shown.includes(error.code)) toast(error.message, "bad");
    });
    client.connect();
  }

  /** A session in place of one that ended, in the same tab. */
  async replace(): Promise<void> {
    const session = await devSession();
    this.client.close();
    this.binding.dispose();
    this.recorder.dispose();
    this.terminal.reset();
    this.session = session;
    this.exit = this.expiresAt = this.roundTrip = undefined;
    this.events.session(this);
    this.#start();
    this.terminal.focus();
  }

  /** The server knows this session no more: where it gives new ones to anybody, have one. */
  async #renewed(): Promise<void> {
    if (Date.now() - this.#renewedAt < 10_000) return; // Not one after the other.
    this.#renewedAt = Date.now();
    try {
      await this.replace();
      toast("The session ended. This is a new one.");
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      this.events.changed(this); // Then the banner stays.
    }
  }

  async #learnExpiry(): Promise<void> {
    try {
      this.expiresAt = await expiry(this.session);
    } catch {
      this.expiresAt = expiryOf(this.session.token); // A watcher may not ask.
    }
    this.events.changed(this);
  }

  /**
   * A new token when this one ends. As long as the session: that costs nobody anything. Beyond it only while
   * somebody is at work here, for a session that nobody uses is to end.
   */
  async #refresh(): Promise<string> {
    const tokenEnds = expiryOf(this.session.token) ?? 0;
    const lasts = this.expiresAt !== undefined && this.expiresAt > tokenEnds + 60_000;
    if (!lasts && Date.now() - this.#usedAt > ACTIVE_WITHIN) throw new Error("the session was not used");
    const { token, expiresAt } = await extend(this.session, lasts ? 0 : EXTEND_BY);
    this.expiresAt = expiresAt;
    this.events.changed(this);
    if (!token) throw new Error("the server makes no tokens");
    return token;
  }

  /** More time, by the user's wish. */
  async extend(): Promise<void> {
    try {
      const { expiresAt, token } = await extend(this.session, EXTEND_BY);
      this.expiresAt = expiresAt;
      if (token) this.client.setToken(token, true);
      toast("The session was extended.");
    } catch (error) {
      toast(error instanceof Error ? error.message : String(error), "bad");
    }
    this.events.changed(this);
  }

  async #clipboard(text: string): Promise<void> {
    const short = text.length > 120 ? `${text.slice(0, 120)}…` : text;
    if (await ask("A program wants to put this on your clipboard:", short, "Allow")) {
      await navigator.clipboard.writeText(text).catch(() => toast("The browser does not allow it.", "bad"));
    }
    this.terminal.focus();
  }

  close(): void {
    this.#observer.disconnect();
    for (const off of this.#off) off();
    this.client.close();
    this.recorder.dispose();
    this.binding.dispose();
    this.terminal.dispose();
    this.pane.remove();
  }
}

const expiryOf = (token: string) => readToken(token).expiresAt;
