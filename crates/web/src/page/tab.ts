// A tab: one session with its client, terminal and recording.
import { Terminal } from "@xterm/xterm";
import { readToken, TerminalClient } from "../client";
import { type Attached, attachTerminal } from "../xterm";
import { h } from "./dom";
import { Recorder } from "./recorder";
import { ApiError, DIAGNOSTICS, devSession, expiry, extend, type Session } from "./session";
import { settings, watchSettings } from "./settings";
import { terminalTheme } from "./themes";
import { ask, toast } from "./toast";

export const FONT =
  '"JetBrains Mono", ui-monospace, "SF Mono", "Cascadia Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace';
/** Seconds that “Extend” adds. */
const EXTEND_BY = 3600;
/** Time since the last key, in milliseconds, within which the user counts as present. */
const ACTIVE_WITHIN = 30 * 60_000;

interface TabEvents {
  /** A value on the status line changed. */
  changed(tab: Tab): void;
  /** The session or its token changed. */
  session(tab: Tab): void;
  /** Transforms typed text before it is sent. */
  typed(text: string): string;
}

/** A new token revokes the old one. This channel passes it to windows of the same origin that hold the old one. */
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
  /** Unix milliseconds; undefined until the server has reported it. */
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
  #replacedAt = 0;
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

  /** Call once the pane is in the document. */
  open(): void {
    this.terminal.open(this.#box);
    this.terminal.textarea?.setAttribute("aria-label", "Terminal input. Ctrl+Shift+Space opens the menu.");
    this.#off.push(
      watchSettings((settings) => {
        this.terminal.options.theme = terminalTheme();
        this.terminal.options.fontSize = settings.fontSize;
        this.terminal.options.screenReaderMode = settings.screenReader;
        if (this.binding) {
          this.binding.predict = settings.predict;
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
      refreshToken: () => this.#refreshToken(),
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
      const connected = status.state === "connected" && this.pane.dataset.state !== "connected";
      this.pane.dataset.state = status.state;
      if (connected) {
        this.exit = undefined;
        void this.#fetchExpiry();
      }
      // A retryable SESSION_INVALID concerns the connection only: the session continues, and the client reconnects.
      const ended = status.error?.code === "SESSION_INVALID" || status.error?.code === "SESSION_EXPIRED";
      const gone = ended && !status.error?.retryable;
      if (gone && !status.readOnly) void this.#replaceEnded();
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
      this.exit = signal ? `The shell was killed by ${signal}.` : `The shell exited with ${exitCode}.`;
      changed();
    });
    client.on("gap", (gap) => gap > 0 && toast(`The server no longer had ${gap.toLocaleString()} bytes of output.`));
    client.on("restart", () => toast("A new shell has started."));
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

  /** Puts a new session in place of the one that ended. */
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

  /** The session no longer exists. Opens a new one if the server allows it to everyone. */
  async #replaceEnded(): Promise<void> {
    if (Date.now() - this.#replacedAt < 10_000) return; // a second end so soon would repeat for ever
    this.#replacedAt = Date.now();
    try {
      await this.replace();
      toast("The session ended. This is a new one.");
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      this.events.changed(this); // keeps the banner
    }
  }

  async #fetchExpiry(): Promise<void> {
    try {
      this.expiresAt = await expiry(this.session);
    } catch {
      this.expiresAt = expiryOf(this.session.token); // a read-only token has no access
    }
    this.events.changed(this);
  }

  /**
   * Requests a new token when this one is about to expire. If the session ends with the token, extends the session too,
   * but only if the user is present: an unused session should end.
   */
  async #refreshToken(): Promise<string> {
    const tokenEnds = expiryOf(this.session.token) ?? 0;
    const outlivesToken = this.expiresAt !== undefined && this.expiresAt > tokenEnds + 60_000;
    if (!outlivesToken && Date.now() - this.#usedAt > ACTIVE_WITHIN) throw new Error("the session is unused");
    const { token, expiresAt } = await extend(this.session, outlivesToken ? 0 : EXTEND_BY);
    this.expiresAt = expiresAt;
    this.events.changed(this);
    if (!token) throw new Error("the server issues no tokens");
    return token;
  }

  /** Extends the session at the user's request. */
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
    const preview = text.length > 120 ? `${text.slice(0, 120)}…` : text;
    if (await ask("A program wants to put this on your clipboard:", preview, "Allow")) {
      await navigator.clipboard
        .writeText(text)
        .catch(() => toast("The browser does not let the page use the clipboard.", "bad"));
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
