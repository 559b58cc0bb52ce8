// @vitest-environment jsdom
// The xterm binding on a real xterm.js buffer: flow control, replay, snapshots, size, predicted echo.
import { Terminal } from "@xterm/xterm";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { TerminalClient } from "../src/client";
import type { ServerFrame } from "../src/protocol.gen";
import { type Attached, attachTerminal } from "../src/xterm";
import { attached, EPOCH, output, rig, settle } from "./support/client";
import { FakeSocket } from "./support/socket";

let client: TerminalClient;
let terminal: Terminal;
let binding: Attached;
const socket = () => FakeSocket.last;

async function start(options: Parameters<typeof attachTerminal>[2] = {}, frame: Parameters<typeof attached>[0] = {}) {
  ({ client } = rig());
  terminal = new Terminal({ cols: 80, rows: 24 });
  const box = document.createElement("div");
  document.body.append(box);
  terminal.open(box);
  binding = attachTerminal(client, terminal, options);
  client.connect();
  await settle();
  socket().open();
  socket().deliver({
    type: "connected",
    message: "",
    sessionId: "s1",
    connectionId: "c",
    timestamp: EPOCH,
    protocol: 1,
    readOnly: false,
  });
  socket().deliver(attached(frame));
}

/** Waits until xterm has parsed all output written so far. xterm parses in timers, which are fake. */
const parsed = async () => {
  let done = false;
  terminal.write("", () => {
    done = true;
  });
  while (!done) await vi.advanceTimersByTimeAsync(1);
};
/** Waits until the client has sent `text` and nothing else. Typed text waits up to 16 ms to share a frame. */
const sent = (text: string) => vi.waitFor(() => expect(typed()).toBe(text));
const row = (n: number) =>
  terminal.buffer.active
    .getLine(terminal.buffer.active.baseY + n)
    ?.translateToString()
    .trimEnd();
const typed = () =>
  socket()
    .of("input")
    .map(({ data }) => data)
    .join("");

beforeEach(() => {
  vi.useFakeTimers({ now: EPOCH });
  FakeSocket.reset();
  sessionStorage.clear();
  vi.stubGlobal("matchMedia", () => ({
    matches: false,
    addListener() {},
    removeListener() {},
    addEventListener() {},
    removeEventListener() {},
  }));
});
afterEach(async () => {
  binding.dispose();
  client.close();
  terminal.dispose();
  await settle();
  vi.unstubAllGlobals();
  vi.useRealTimers();
});

describe("output", () => {
  it("is acknowledged once xterm has parsed it", async () => {
    await start();
    socket().deliver(output(0, "x".repeat(40_000)));
    expect(socket().of("ack")).toHaveLength(0);
    await parsed();
    expect(socket().of("ack").at(-1)?.outputOffset).toBe(40_000);
  });

  it("shows characters that were split across frames", async () => {
    await start();
    const bytes = new TextEncoder().encode("€😀漢");
    bytes.forEach(
      (byte, offset) =>
        void socket().deliver({ type: "output", epoch: EPOCH, offset, b64: btoa(String.fromCharCode(byte)) }),
    );
    await parsed();
    expect(row(0)).toBe("€😀漢");
  });

  it("is acknowledged ahead in a hidden tab, up to a bound", async () => {
    await start();
    vi.spyOn(document, "visibilityState", "get").mockReturnValue("hidden");
    socket().deliver(output(0, "x".repeat(40_000)));
    expect(socket().of("ack").at(-1)?.outputOffset).toBe(40_000);
    for (let i = 1; i < 200; i++) socket().deliver(output(i * 40_000, "x".repeat(40_000)));
    expect(socket().of("ack").at(-1)?.outputOffset).toBeLessThanOrEqual(4 * 1024 * 1024);
  });

  it("applies a snapshot after the output that is being parsed", async () => {
    await start();
    socket().deliver(output(0, "old old old"));
    const part = (n: number, data: string): ServerFrame => ({
      type: "snapshot",
      epoch: EPOCH,
      offset: 100,
      part: n,
      parts: 2,
      cols: 60,
      rows: 20,
      gap: 89,
      data,
    });
    socket().deliver(part(1, "two"));
    socket().deliver(part(0, "one\r\n"));
    socket().deliver(output(100, " three"));
    await vi.waitFor(() => expect([row(0), row(1)]).toEqual(["one", "two three"]));
    expect([terminal.cols, terminal.rows]).toEqual([60, 20]);
  });

  it("starts a new shell on a clean screen", async () => {
    await start();
    socket().deliver(output(0, "\x1b[?1049h\x1b[?2004hin vi"));
    socket().deliver({ type: "notice", code: "SHELL_RESTARTED", message: "" });
    socket().deliver(attached({ epoch: EPOCH + 1 }));
    socket().deliver({ ...(output(0, "$ ") as object), epoch: EPOCH + 1 } as ServerFrame);
    await parsed();
    expect(row(0)).toBe("$");
    expect(terminal.buffer.active.type).toBe("normal");
    expect(terminal.modes.bracketedPasteMode).toBe(false);
  });
});

describe("terminal queries", () => {
  const QUERIES = "\x1b[c\x1b[>c\x1b[6n\x1b[?6n\x1b]11;?\x07\x1b[?25$p\x1b[>q";

  it("of a live program are answered", async () => {
    await start();
    socket().deliver(output(0, QUERIES));
    await vi.waitFor(() => expect(typed()).toContain("\x1b[?"));
  });

  it("are muted up to the byte that this tab saw before a reload", async () => {
    sessionStorage.setItem("shellbridge.seen.s1", `${EPOCH}:${QUERIES.length}`);
    await start();
    socket().deliver(output(0, QUERIES));
    await parsed();
    expect(typed()).toBe("");
    socket().deliver(output(QUERIES.length, "\x1b[6n"));
    await sent("\x1b[1;1R");
  });

  it("old and new in one frame are told apart", async () => {
    sessionStorage.setItem("shellbridge.seen.s1", `${EPOCH}:4`);
    await start();
    socket().deliver(output(0, "\x1b[6nab\x1b[6n"));
    await sent("\x1b[1;3R");
  });

  it("of an older shell are muted until the first pause", async () => {
    await start({}, { epoch: EPOCH - 60_000 });
    const old = (offset: number, data: string) =>
      ({ ...(output(offset, data) as object), epoch: EPOCH - 60_000 }) as ServerFrame;
    socket().deliver(old(0, QUERIES));
    await parsed();
    expect(binding.replaying).toBe(true);
    expect(typed()).toBe("");
    await vi.advanceTimersByTimeAsync(300);
    expect(binding.replaying).toBe(false);
    socket().deliver(old(QUERIES.length, "\x1b[6n"));
    await sent("\x1b[1;1R");
  });

  it("are muted up to an offset saved on unload", async () => {
    await start();
    socket().deliver(output(0, "abc"));
    await parsed();
    dispatchEvent(new Event("pagehide"));
    expect(sessionStorage.getItem("shellbridge.seen.s1")).toBe(`${EPOCH}:3`);
  });
});

describe("input", () => {
  it("is sent as UTF-8, mouse reports as bytes", async () => {
    await start();
    terminal.input("€");
    await settle();
    expect(typed()).toBe("€");
    socket().deliver(output(0, "\x1b[?1000h\x1b[?1003h"));
    await parsed();
    (
      terminal as unknown as { _core: { coreService: { triggerBinaryEvent(text: string): void } } }
    )._core.coreService.triggerBinaryEvent("\xff\x80");
    await vi.waitFor(() => expect(socket().of("input").at(-1)?.b64).toBe(btoa("\xff\x80")));
  });

  it("is wrapped for bracketed paste on request", async () => {
    await start();
    socket().deliver(output(0, "\x1b[?2004h"));
    await parsed();
    terminal.paste("a\nb");
    await sent("\x1b[200~a\rb\x1b[201~");
  });

  it("is not sent if read-only", async () => {
    await start({}, { readOnly: true });
    terminal.input("x");
    await settle();
    expect(socket().of("input")).toEqual([]);
  });
});

describe("size", () => {
  it("follows the size in force", async () => {
    await start();
    socket().deliver({ type: "resize_ack", cols: 50, rows: 10, timestamp: 1 });
    await vi.advanceTimersByTimeAsync(200);
    expect([terminal.cols, terminal.rows]).toEqual([50, 10]);
  });
});

describe("OSC 52", () => {
  it("asks before a write and never reads", async () => {
    const asked: string[] = [];
    await start({ allowClipboard: (text) => asked.push(text) });
    socket().deliver(output(0, `\x1b]52;c;${btoa("secret")}\x07\x1b]52;c;?\x07`));
    await sent("\x1b]52;c;\x07");
    expect(asked).toEqual(["secret"]);
  });
});

describe("predicted echo", () => {
  const shown = () =>
    [...document.querySelectorAll(".shellbridge-predicted span")].map((span) => span.textContent).join("");
  const slow = async () => {
    client.ping();
    await vi.advanceTimersByTimeAsync(100);
    socket().deliver({ type: "pong", timestamp: 1, echo: socket().of("ping").at(-1)?.timestamp });
  };

  it("is hidden until the shell has echoed a character", async () => {
    await start({ predict: true });
    socket().deliver(output(0, "$ "));
    await parsed();
    await slow();
    terminal.input("a");
    expect(shown()).toBe("");
    socket().deliver(output(2, "a"));
    await parsed();
    terminal.input("b");
    terminal.input("c");
    expect(shown()).toBe("bc");
    socket().deliver(output(3, "bc"));
    await parsed();
    expect(shown()).toBe("");
    expect(row(0)).toBe("$ abc");
  });

  it("disappears on a mismatch, or after a round trip", async () => {
    await start({ predict: true });
    await slow();
    terminal.input("a");
    socket().deliver(output(0, "a"));
    await parsed();
    terminal.input("b");
    expect(shown()).toBe("b");
    socket().deliver(output(1, "X"));
    await parsed();
    expect(shown()).toBe("");
    terminal.input("c");
    socket().deliver(output(2, "c"));
    await parsed();
    terminal.input("d");
    expect(shown()).toBe("d");
    await vi.advanceTimersByTimeAsync(200);
    expect(shown()).toBe("");
  });

  it("is hidden again after Enter, so a password never shows", async () => {
    await start({ predict: true });
    await slow();
    terminal.input("a");
    socket().deliver(output(0, "a"));
    await parsed();
    terminal.input("\r");
    socket().deliver(output(1, "\r\nPassword: "));
    await parsed();
    for (const key of "hunter2") {
      terminal.input(key);
      expect(shown()).toBe("");
    }
  });

  it("is off by default and on the alternate screen", async () => {
    await start();
    await slow();
    terminal.input("a");
    socket().deliver(output(0, "a"));
    await parsed();
    terminal.input("b");
    expect(shown()).toBe("");
    binding.predict = true;
    socket().deliver(output(1, "b\x1b[?1049h"));
    await parsed();
    terminal.input("c");
    expect(shown()).toBe("");
  });
});
