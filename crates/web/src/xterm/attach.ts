// Binds a TerminalClient to an xterm.js terminal: output with flow control, input, size.
import type { Terminal } from "@xterm/xterm";
import type { TerminalClient } from "../client/index.js";
import { type AddonOptions, type Addons, loadAddons } from "./addons.js";
import { Predictor } from "./predict.js";
import { ReplayMute } from "./replay.js";

export interface AttachOptions extends AddonOptions {
  /** Lines of scrollback; default 10,000. */
  scrollback?: number;
  /** Predicts the echo of typed characters on slow connections; default false. */
  predict?: boolean;
  /** Transforms typed text before it is sent, for instance by an on-screen Ctrl key. */
  typed?: (text: string) => string;
}

export interface Attached extends Addons {
  /** Call when the terminal's element changes size. Fits the terminal and, debounced, tells the server. */
  refit(): void;
  /** Whether the server is replaying output from before this page. */
  readonly replaying: boolean;
  predict: boolean;
  dispose(): void;
}

/** Time without a change, in milliseconds, before a resize is sent. */
const RESIZE_DEBOUNCE = 80;
/** Time, in milliseconds, to wait for the size in force after a local resize. */
const SIZE_SETTLE = 150;
/**
 * Bytes acknowledged before xterm has parsed them, in a hidden tab. Browsers throttle a hidden tab's timers to one a
 * minute, and xterm's writes with them, which would stop the shell.
 */
const HIDDEN_CREDIT = 4 * 1024 * 1024;

/** Prepares the terminal for a new shell: resets the modes and moves the old screen into the scrollback. */
const resetForNewShell = (rows: number) =>
  `\x1b[?1049l\x1b[!p\x1b[?1;9;1000;1002;1003;1004;1005;1006;1015;2004l\x1b[0m\x1b[?25h\x1b[${rows};1H${"\r\n".repeat(rows)}\x1b[H`;

/**
 * Binds an open terminal to a client. Call it before `client.connect()`; a later call requests all output again.
 * `dispose()` undoes the binding and leaves the client and the terminal alive.
 */
export function attachTerminal(client: TerminalClient, terminal: Terminal, options: AttachOptions = {}): Attached {
  terminal.options.scrollback = options.scrollback ?? 10_000;
  const addons = loadAddons(terminal, {
    ...options,
    allowClipboard: (text) => !replay.active && options.allowClipboard?.(text),
  });
  const replay = new ReplayMute(client, terminal);
  const predictor = new Predictor(client, terminal);
  predictor.enabled = options.predict ?? false;
  let unparsed = 0; // bytes acknowledged before they were parsed
  let inForce: { cols: number; rows: number } | undefined;
  let resizeTimer: ReturnType<typeof setTimeout> | undefined;
  let applyTimer: ReturnType<typeof setTimeout> | undefined;
  let restoring = false;

  const applySizeInForce = () => {
    clearTimeout(applyTimer);
    applyTimer = setTimeout(() => {
      if (!inForce || restoring) return;
      if (inForce.cols !== terminal.cols || inForce.rows !== terminal.rows) terminal.resize(inForce.cols, inForce.rows);
    }, SIZE_SETTLE);
  };

  const refit = (): void => {
    clearTimeout(resizeTimer);
    const size = addons.fit.proposeDimensions();
    if (!size || !(size.cols > 1 && size.rows > 1)) return; // no layout yet, or hidden
    const { cols, rows } = size;
    if (!inForce) {
      // Not attached yet: `attach` will carry the size.
      terminal.resize(cols, rows);
      client.resize(cols, rows);
      return;
    }
    resizeTimer = setTimeout(() => {
      // While a smaller window limits the size, only the server can change it.
      const unlimited = inForce?.cols === terminal.cols && inForce.rows === terminal.rows;
      if (unlimited && !client.status.readOnly && !restoring) terminal.resize(cols, rows);
      client.resize(cols, rows);
      applySizeInForce();
    }, RESIZE_DEBOUNCE);
  };

  const write = (bytes: Uint8Array, done: () => void, end: number): void => {
    const muted = replay.countOld(bytes.length, end);
    if (muted > 0) terminal.write(bytes.subarray(0, muted), () => replay.parsed(end - bytes.length + muted));
    if (muted === bytes.length) return terminal.write("", done);
    writeLive(bytes.subarray(muted), done, end);
  };

  const writeLive = (bytes: Uint8Array, done: () => void, end: number): void => {
    const ahead = document.visibilityState === "hidden" && unparsed + bytes.length <= HIDDEN_CREDIT;
    if (ahead) unparsed += bytes.length;
    terminal.write(bytes, () => {
      replay.parsed(end);
      if (ahead) unparsed -= bytes.length;
      else done();
    });
    if (ahead) done();
  };

  client.sink = {
    write,
    reset(cols, rows, parts, done) {
      replay.handleSnapshot();
      restoring = true;
      // Output that is still being parsed belongs to the old screen, so wait for it.
      terminal.write("", () => {
        terminal.reset();
        terminal.resize(cols, rows);
        for (const part of parts) terminal.write(part);
        terminal.write("", () => {
          restoring = false;
          applySizeInForce();
          done();
        });
      });
    },
  };

  const unsubscribe = [
    client.on("size", (size) => {
      inForce = size;
      applySizeInForce();
    }),
    client.on("restart", () => {
      predictor.clear();
      terminal.write(resetForNewShell(terminal.rows));
    }),
  ];
  const data = terminal.onData((typed) => {
    if (client.status.readOnly) return;
    const text = options.typed?.(typed) ?? typed;
    client.input(text);
    predictor.typed(text);
  });
  const binary = terminal.onBinary((text) => {
    if (client.status.readOnly) return;
    client.input(Uint8Array.from(text, (char) => char.charCodeAt(0) & 0xff));
  });
  refit();

  return {
    fit: addons.fit,
    search: addons.search,
    get renderer() {
      return addons.renderer;
    },
    refit,
    get replaying() {
      return replay.active;
    },
    get predict() {
      return predictor.enabled;
    },
    set predict(on: boolean) {
      predictor.enabled = on;
    },
    dispose() {
      client.sink = undefined;
      clearTimeout(resizeTimer);
      clearTimeout(applyTimer);
      for (const off of unsubscribe) off();
      data.dispose();
      binary.dispose();
      replay.dispose();
      predictor.dispose();
      addons.dispose();
    },
  };
}
