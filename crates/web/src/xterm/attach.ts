// Joins a TerminalClient and an xterm.js terminal: output with flow control, input, size.
import type { Terminal } from "@xterm/xterm";
import type { TerminalClient } from "../client/index.js";
import { type AddonOptions, type Addons, loadAddons } from "./addons.js";
import { Predictor } from "./predict.js";
import { ReplayMute } from "./replay.js";

export interface AttachOptions extends AddonOptions {
  /** Lines kept above the screen; default 10,000. */
  scrollback?: number;
  /** Shows typed characters before the shell does, when the line is slow; default false. */
  predict?: boolean;
  /** Changes what the user types before it goes out, such as a Ctrl key on the screen. */
  typed?: (text: string) => string;
}

export interface Attached extends Addons {
  /** Call when the terminal's box changed: fits the terminal, and tells the server (debounced). */
  refit(): void;
  /** Whether output of before this page is coming in again. */
  readonly replaying: boolean;
  predict: boolean;
  dispose(): void;
}

/** A drag of the window's edge is one resize. */
const RESIZE_DEBOUNCE = 80;
/** How long after our own resize the server's word on the size is waited for. */
const SIZE_SETTLE = 150;
/** A hidden tab's timers are slowed to one a minute, and with them xterm's writes. So much is acknowledged ahead. */
const HIDDEN_CREDIT = 4 * 1024 * 1024;

/** What a new shell needs of the old one's terminal: modes off, and its screen moved up into the scrollback. */
const fresh = (rows: number) =>
  `\x1b[?1049l\x1b[!p\x1b[?1;9;1000;1002;1003;1004;1005;1006;1015;2004l\x1b[0m\x1b[?25h\x1b[${rows};1H${"\r\n".repeat(rows)}\x1b[H`;

/**
 * The terminal must be open. Attach before `client.connect()`; later works too, and fetches the output again.
 * `dispose()` takes everything off, and leaves client and terminal alive.
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
  let unparsed = 0; // acknowledged ahead of the screen, in a hidden tab
  let inForce: { cols: number; rows: number } | undefined;
  let resizing: ReturnType<typeof setTimeout> | undefined;
  let settling: ReturnType<typeof setTimeout> | undefined;
  let picturing = false;

  const settle = () => {
    clearTimeout(settling);
    settling = setTimeout(() => {
      if (!inForce || picturing) return;
      if (inForce.cols !== terminal.cols || inForce.rows !== terminal.rows) terminal.resize(inForce.cols, inForce.rows);
    }, SIZE_SETTLE);
  };

  const refit = (): void => {
    clearTimeout(resizing);
    const size = addons.fit.proposeDimensions();
    if (!size || !(size.cols > 1 && size.rows > 1)) return; // not laid out, or hidden
    const { cols, rows } = size;
    if (!inForce) {
      // Nothing was said yet: the first `attach` will carry it.
      terminal.resize(cols, rows);
      client.resize(cols, rows);
      return;
    }
    resizing = setTimeout(() => {
      // Another, smaller window may hold the size down: then the server's word comes first.
      const free = inForce?.cols === terminal.cols && inForce.rows === terminal.rows;
      if (free && !client.status.readOnly && !picturing) terminal.resize(cols, rows);
      client.resize(cols, rows);
      settle();
    }, RESIZE_DEBOUNCE);
  };

  const write = (bytes: Uint8Array, done: () => void, end: number): void => {
    const muted = replay.old(bytes.length, end);
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
      replay.pictured();
      picturing = true;
      // Whatever is still being parsed belongs to the old screen: first let it through.
      terminal.write("", () => {
        terminal.reset();
        terminal.resize(cols, rows);
        for (const part of parts) terminal.write(part);
        terminal.write("", () => {
          picturing = false;
          settle();
          done();
        });
      });
    },
  };

  const off = [
    client.on("size", (size) => {
      inForce = size;
      settle();
    }),
    client.on("restart", () => {
      predictor.clear();
      terminal.write(fresh(terminal.rows));
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
      clearTimeout(resizing);
      clearTimeout(settling);
      for (const stop of off) stop();
      data.dispose();
      binary.dispose();
      replay.dispose();
      predictor.dispose();
      addons.dispose();
    },
  };
}
