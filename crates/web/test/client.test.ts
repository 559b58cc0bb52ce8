// @vitest-environment jsdom
// The client's life over a scripted socket: every close code, every error code, retries, liveness, tokens, commands.
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { TerminalError } from "../src/client";
import type { ErrorCode, ServerFrame } from "../src/protocol.gen";
import { attached, connected, EPOCH, jwt, output, type Rig, reconnected, rig, settle } from "./support/client";
import { FakeSocket } from "./support/socket";

let online = true;

beforeEach(() => {
  vi.useFakeTimers();
  FakeSocket.reset();
  sessionStorage.clear();
  online = true;
  vi.spyOn(navigator, "onLine", "get").mockImplementation(() => online);
});

let open: Rig[] = [];
const keep = (made: Rig) => {
  open.push(made);
  return made;
};
afterEach(() => {
  // Whatever a test did: after close() nothing of the client runs on.
  for (const { client } of open) client.close();
  open = [];
  expect(vi.getTimerCount()).toBe(0);
  vi.useRealTimers();
});

const start = async (options?: Parameters<typeof connected>[0]) => keep(await connected(options));
const error = (code: ErrorCode, more: Partial<Extract<ServerFrame, { type: "error" }>> = {}): ServerFrame => ({
  type: "error",
  code,
  message: `about ${code}`,
  retryable: false,
  ...more,
});

describe("connecting", () => {
  it("puts session and token into the address", async () => {
    const { socket, client } = await start();
    expect(socket().url).toBe("wss://host/prod?sessionId=s1&token=secret-token");
    expect(client.diagnostics.url).not.toContain("secret-token");
  });

  it("keeps the token out of the address when asked to", async () => {
    const { socket } = await start({ tokenIn: "protocol" });
    expect(socket().url).toBe("wss://host/prod?sessionId=s1");
    expect(socket().protocols).toEqual(["shellbridge.v1", "bearer.secret-token"]);
  });

  it("is connected once it is attached, and not before", async () => {
    const made = keep(rig());
    made.client.connect();
    await settle();
    expect(made.client.status.state).toBe("connecting");
    made.socket().open();
    expect(made.client.status.state).toBe("connecting");
    made.socket().say(attached({ readOnly: true }));
    expect(made.client.status).toMatchObject({ state: "connected", readOnly: true });
  });

  it("repeats attach every 2 s until attached, each with a new seq and the offset needed then", async () => {
    const made = keep(rig());
    made.client.connect();
    await settle();
    made.socket().open();
    made.socket().say(output(0, "early"));
    await vi.advanceTimersByTimeAsync(4_000);
    const [first, second, third] = made.socket().of("attach");
    expect(first).toMatchObject({ seq: 1, cols: 80, rows: 24 });
    expect(first).not.toHaveProperty("outputOffset");
    expect(second).toMatchObject({ seq: 2, epoch: EPOCH, outputOffset: 5 });
    expect(third).toMatchObject({ seq: 3 });
    made.socket().say(attached());
    await vi.advanceTimersByTimeAsync(10_000);
    expect(made.socket().of("attach")).toHaveLength(3);
  });

  it("gives a handshake 20 s", async () => {
    const made = keep(rig());
    made.client.connect();
    await vi.advanceTimersByTimeAsync(19_999);
    expect(made.errors).toEqual([]);
    await vi.advanceTimersByTimeAsync(1);
    expect(made.errors[0]).toMatchObject({ code: "CONNECTION_TIMEOUT", closeCode: 1008 });
    expect(made.client.status.state).toBe("reconnecting");
  });

  it.each([
    ["MISSING_AUTH", { token: undefined }],
    ["AWS_APP_RUNNER_ERROR", { url: "wss://abc.eu-west-1.awsapprunner.com/ws" }],
    ["WEBSOCKET_CREATION_FAILED", { url: "not a url" }],
  ])("stops at %s without an attempt", async (code, options) => {
    const made = keep(rig(options));
    made.client.connect();
    await settle();
    expect(made.client.status).toMatchObject({ state: "failed", error: { code, retryable: false } });
    expect(FakeSocket.all).toHaveLength(0);
  });

  it("says MIXED_CONTENT for ws:// on an https:// page, save to this machine", async () => {
    vi.stubGlobal("location", new URL("https://page.example/"));
    const made = keep(rig({ url: "ws://host/prod" }));
    made.client.connect();
    await settle();
    expect(made.client.status.error?.code).toBe("MIXED_CONTENT");
    const local = keep(rig({ url: "ws://127.0.0.1:3002/prod" }));
    local.client.connect();
    await settle();
    expect(FakeSocket.all).toHaveLength(1);
    vi.unstubAllGlobals();
  });

  it("says WEBSOCKET_CREATION_FAILED when the constructor throws", async () => {
    const Throwing = class {
      constructor() {
        throw new DOMException("bad scheme", "SyntaxError");
      }
    } as unknown as typeof WebSocket;
    const made = keep(rig({ WebSocket: Throwing, url: "gopher://host/" }));
    made.client.connect();
    await settle();
    expect(made.client.status.error?.code).toBe("WEBSOCKET_CREATION_FAILED");
  });
});

describe("close codes", () => {
  it.each([
    [1000, undefined],
    [1001, undefined],
    [1005, undefined],
    [1006, "CONNECTION_FAILED"],
    [1003, "CONNECTION_FAILED"],
    [1008, "CONNECTION_TIMEOUT"],
    [1009, "TOO_LARGE"],
    [1011, "CONNECTION_FAILED"],
    [4500, "SERVER_ERROR"],
    [4999, "SERVER_ERROR"],
  ])("%i reconnects (%s)", async (code, expected) => {
    const made = await start();
    await vi.advanceTimersByTimeAsync(1_000);
    made.socket().cut(code, "why");
    expect(made.client.status.state).toBe("reconnecting");
    expect(made.errors[0]?.code).toBe(expected);
    if (expected) expect(made.errors[0]).toMatchObject({ closeCode: code, retryable: true });
    await reconnected(made);
    expect(made.client.status.state).toBe("connected");
    expect(made.client.diagnostics.reconnects).toBe(1);
  });

  it("4000 means that the session is gone: no reconnect", async () => {
    const made = await start();
    made.socket().cut(4000);
    expect(made.client.status).toMatchObject({ state: "failed", error: { code: "SESSION_INVALID" } });
    await vi.advanceTimersByTimeAsync(3_600_000);
    expect(FakeSocket.all).toHaveLength(1);
  });

  it("a close of our own is followed by nothing", async () => {
    const made = await start();
    made.client.close();
    expect(made.socket().closedWith).toBe(1000);
    expect(made.socket().of("detach")).toHaveLength(1);
    expect(made.client.status.state).toBe("closed");
    expect(vi.getTimerCount()).toBe(0);
  });
});

describe("error codes", () => {
  it.each<[ErrorCode, Partial<Extract<ServerFrame, { type: "error" }>>]>([
    ["SESSION_INVALID", {}],
    ["SESSION_EXPIRED", {}],
    ["FORBIDDEN", {}],
    ["FORBIDDEN", { ref: "attach" }],
    ["REPLACED", { ref: "input" }],
    ["TOKEN_EXPIRED", {}],
  ])("%s ends it", async (code, more) => {
    const made = await start();
    made.socket().say(error(code, more));
    await settle();
    expect(made.client.status).toMatchObject({ state: "failed", error: { code } });
    expect(made.socket().closedWith).toBe(1000);
    await vi.advanceTimersByTimeAsync(3_600_000);
    expect(FakeSocket.all).toHaveLength(1);
  });

  it.each<[ErrorCode, Partial<Extract<ServerFrame, { type: "error" }>>]>([
    ["BAD_FRAME", { ref: "resize" }],
    ["TOO_LARGE", { ref: "input" }],
    ["RATE_LIMITED", { retryable: true }],
    ["FORBIDDEN", { ref: "clear" }],
    ["SESSION_INVALID", { retryable: true }],
    ["COMMAND_TIMEOUT", { ref: "of-nobody" }],
    ["COMMAND_FAILED", { ref: "of-nobody" }],
    ["BACKEND_UNAVAILABLE", { retryable: true, ref: "input" }],
    ["BACKEND_TIMEOUT", { retryable: true, ref: "attach" }],
    ["INTERNAL", {}],
  ])("%s is reported and the connection stays", async (code, more) => {
    const made = await start();
    made.socket().say(error(code, more));
    expect(made.errors).toHaveLength(1);
    expect(made.errors[0]).toBeInstanceOf(TerminalError);
    expect(made.errors[0]?.code).toBe(code);
    expect(made.client.status.state).toBe("connected");
  });

  it("SESSION_INVALID that is retryable reconnects when the Lambda then deletes the connection", async () => {
    const made = await start();
    await vi.advanceTimersByTimeAsync(1_000);
    made.socket().say(error("SESSION_INVALID", { retryable: true }));
    made.socket().cut(1000);
    await reconnected(made);
    expect(made.client.status.state).toBe("connected");
  });

  it("NOT_ATTACHED attaches again, once for many", async () => {
    const made = await start();
    made.client.input("x");
    made.socket().say(error("NOT_ATTACHED", { retryable: true, ref: "input" }));
    made.socket().say(error("NOT_ATTACHED", { retryable: true, ref: "ack" }));
    expect(made.socket().of("attach")).toHaveLength(2);
    made.socket().say(attached());
    expect(
      made
        .socket()
        .of("input")
        .map(({ offset, data }) => [offset, data]),
    ).toEqual([
      [0, "x"],
      [0, "x"],
    ]);
    expect(made.errors).toEqual([]);
  });

  it("READ_ONLY drops what was typed and takes nothing more", async () => {
    const made = await start();
    made.client.input("x");
    made.socket().say(error("READ_ONLY", { ref: "input" }));
    expect(made.client.status.readOnly).toBe(true);
    expect(made.client.input("y")).toBe(false);
    await vi.advanceTimersByTimeAsync(20_000);
    expect(made.socket().of("input")).toHaveLength(1);
  });

  it("INPUT_GAP sends again from where the server is, not more than every half second", async () => {
    const made = await start();
    made.client.input("abc");
    await vi.advanceTimersByTimeAsync(499);
    made.socket().say(error("INPUT_GAP", { retryable: true, inputOffset: 1 }));
    expect(made.socket().of("input")).toHaveLength(1);
    await vi.advanceTimersByTimeAsync(2_000);
    const again = made.socket().of("input").at(-1);
    expect(again).toMatchObject({ offset: 1, data: "bc" });
    const count = made.socket().of("input").length;
    made.socket().say(error("INPUT_GAP", { retryable: true, inputOffset: 1 }));
    expect(made.socket().of("input").length - count).toBeLessThanOrEqual(1);
  });

  it("API Gateway's own messages and other junk do no harm", async () => {
    const made = await start();
    for (const junk of ['{"message": "Internal server error"}', "not json", "[]", "7", new Blob(["x"])]) {
      made.socket().raw(junk);
    }
    expect(made.client.status.state).toBe("connected");
    made.socket().say(output(0, "still here"));
    expect(made.screen.text).toBe("still here");
  });
});

describe("retries", () => {
  it("waits anywhere up to 250 ms, doubling up to 30 s, and gives up after ten", async () => {
    const made = keep(rig({ random: () => 0.999_999 }));
    made.client.connect();
    await settle();
    const waits: number[] = [];
    for (let i = 0; i < 10; i++) {
      made.socket().cut(1006);
      await settle();
      const { retryAt, state } = made.client.status;
      expect(state).toBe("reconnecting");
      waits.push(Math.round((retryAt ?? 0) - Date.now()));
      await vi.advanceTimersByTimeAsync((retryAt ?? 0) - Date.now() + 1);
    }
    expect(waits).toEqual([250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
    made.socket().cut(1006);
    await settle();
    expect(made.client.status).toMatchObject({ state: "failed", error: { code: "MAX_RETRIES_EXCEEDED" } });
  });

  it.each(["online", "visible", "reconnect()"])("counts anew by %s", async (how) => {
    const made = keep(rig({ maxRetries: 0 }));
    made.client.connect();
    await settle();
    made.socket().cut(1006);
    await settle();
    expect(made.client.status.error?.code).toBe("MAX_RETRIES_EXCEEDED");
    if (how === "online") dispatchEvent(new Event("online"));
    else if (how === "visible") document.dispatchEvent(new Event("visibilitychange"));
    else made.client.reconnect();
    await settle();
    expect(FakeSocket.all).toHaveLength(2);
  });

  it("does not go on by itself after an error that no retry helps", async () => {
    const made = await start();
    made.socket().say(error("SESSION_EXPIRED"));
    dispatchEvent(new Event("online"));
    document.dispatchEvent(new Event("visibilitychange"));
    await settle();
    expect(FakeSocket.all).toHaveLength(1);
  });

  it("a server that takes connections and drops them at once is not hammered", async () => {
    const made = keep(rig({ random: () => 0.999 }));
    made.client.connect();
    await settle();
    for (let i = 0; i < 5; i++) {
      made.socket().open();
      made.socket().say(attached());
      made.socket().cut(1001);
      await vi.advanceTimersByTimeAsync((made.client.status.retryAt ?? 0) - Date.now() + 1);
    }
    made.socket().cut(1001);
    await settle();
    expect((made.client.status.retryAt ?? 0) - Date.now()).toBeGreaterThan(5_000);
  });

  it("waits for the network without using up attempts", async () => {
    const made = await start({ maxRetries: 0 });
    await vi.advanceTimersByTimeAsync(1_000);
    online = false;
    made.socket().cut(1006);
    await settle();
    expect(made.client.status).toMatchObject({ state: "offline", error: { code: "OFFLINE" } });
    await vi.advanceTimersByTimeAsync(3_600_000);
    expect(FakeSocket.all).toHaveLength(1);
    online = true;
    dispatchEvent(new Event("online"));
    await settle();
    made.socket().open();
    made.socket().say(attached());
    expect(made.client.status.state).toBe("connected");
  });
});

describe("liveness", () => {
  it("pings every 30 s with what it acknowledges, and measures the way there and back", async () => {
    const made = await start();
    const first = made.socket().of("ping")[0];
    await vi.advanceTimersByTimeAsync(40);
    made.socket().say({ type: "pong", timestamp: 1, echo: first?.timestamp });
    expect(made.client.diagnostics.roundTrip).toEqual({ last: 40, median: 40, p95: 40 });
    made.socket().say(output(0, "abc"));
    await vi.advanceTimersByTimeAsync(30_000);
    expect(made.socket().of("ping")).toHaveLength(2);
    expect(made.socket().of("ping")[1]).toMatchObject({ outputOffset: 3 });
  });

  it("is dead after two missed pongs", async () => {
    const made = await start();
    await vi.advanceTimersByTimeAsync(30_000);
    expect(made.client.status.state).toBe("connected");
    await vi.advanceTimersByTimeAsync(35_000);
    expect(made.errors[0]).toMatchObject({ code: "CONNECTION_FAILED", closeCode: 1006 });
    expect(FakeSocket.all.length).toBeGreaterThan(1);
  });

  it("pings every minute once nothing else was sent for five, and every 30 s again when something is", async () => {
    const made = pongs(await start());
    const pings = () => made.socket().of("ping").length;
    const before = pings();
    await vi.advanceTimersByTimeAsync(5 * 60_000);
    const quiet = pings();
    expect(quiet - before).toBe(9);
    await vi.advanceTimersByTimeAsync(10 * 60_000);
    expect(pings() - quiet).toBe(10);
    made.socket().say(output(0, "abc"));
    await vi.advanceTimersByTimeAsync(60_000);
    expect(pings() - quiet).toBe(12);
    expect(made.client.status.state).toBe("connected");
  });

  it("is dead within about two minutes where all was quiet", async () => {
    const made = await start();
    const pings = () => made.socket().of("ping");
    for (let minute = 0; minute < 12; minute += 0.5) {
      made.socket().say({ type: "pong", timestamp: 1, echo: pings().at(-1)?.timestamp });
      await vi.advanceTimersByTimeAsync(30_000);
    }
    expect(made.client.status.state).toBe("connected");
    await vi.advanceTimersByTimeAsync(2 * 60_000 + 10_000);
    expect(made.errors[0]).toMatchObject({ code: "CONNECTION_FAILED", closeCode: 1006 });
  });

  it("after a jump of the clock it asks at once, and takes silence for the end", async () => {
    const made = await start();
    made.socket().say({ type: "pong", timestamp: 1, echo: made.socket().of("ping")[0]?.timestamp });
    vi.setSystemTime(Date.now() + 3_600_000);
    await vi.advanceTimersByTimeAsync(5_000);
    expect(made.socket().of("ping")).toHaveLength(2);
    await vi.advanceTimersByTimeAsync(5_000);
    expect(made.client.status.state).toBe("reconnecting");
  });

  it("keeps a connection that answers after the jump", async () => {
    const made = await start();
    vi.setSystemTime(Date.now() + 3_600_000);
    await vi.advanceTimersByTimeAsync(5_000);
    made.socket().say({ type: "pong", timestamp: 1, echo: made.socket().of("ping").at(-1)?.timestamp });
    await vi.advanceTimersByTimeAsync(20_000);
    expect(made.client.status.state).toBe("connected");
    expect(FakeSocket.all).toHaveLength(1);
  });

  it.each(["online", "offline", "visible"])("tries the line when %s", async (event) => {
    const made = await start();
    if (event === "visible") document.dispatchEvent(new Event("visibilitychange"));
    else dispatchEvent(new Event(event));
    expect(made.socket().of("ping")).toHaveLength(2);
    await vi.advanceTimersByTimeAsync(5_000);
    expect(made.client.status.state).toBe("reconnecting");
  });
});

/** The sockets made so far answer pings. */
function pongs(made: Rig): Rig {
  for (const socket of FakeSocket.all) {
    socket.onSend = (frame) =>
      frame.type === "ping" && socket.say({ type: "pong", timestamp: 1, echo: frame.timestamp });
  }
  return made;
}

describe("a planned reconnect", () => {
  /** Until the second socket is made. */
  const untilPlanned = async () => {
    for (let t = 0; t < 2 * 3_600_000 && FakeSocket.all.length === 1; t += 10_000)
      await vi.advanceTimersByTimeAsync(10_000);
    expect(FakeSocket.all).toHaveLength(2);
  };

  it("comes before 2 h: the new connection first, then the old one closed, and nobody notices", async () => {
    const made = pongs(await start());
    const [old] = FakeSocket.all as [FakeSocket];
    await untilPlanned();
    expect(FakeSocket.all).toHaveLength(2);
    expect(old.closedWith).toBeUndefined();
    old.say(output(0, "still "));
    made.socket().open();
    made.client.input("while moving");
    expect(old.of("input")).toHaveLength(0);
    old.say(error("REPLACED", { ref: "ack" })); // the server moved us
    made.socket().say(attached({ outputOffset: 6 }));
    expect(old.closedWith).toBe(1000);
    made.socket().say(output(6, "here"));
    expect(made.screen.text).toBe("still here");
    expect(made.socket().of("input")[0]).toMatchObject({ offset: 0, data: "while moving" });
    expect(made.states).toEqual(["connecting", "connected"]);
    expect(made.client.diagnostics.reconnects).toBe(1);
  });

  it("that fails is tried again, and the old connection serves on", async () => {
    const made = pongs(await start());
    const [old] = FakeSocket.all as [FakeSocket];
    await untilPlanned();
    made.socket().cut(1006);
    old.say(output(0, "fine"));
    expect(made.screen.text).toBe("fine");
    await vi.advanceTimersByTimeAsync(30_000);
    expect(FakeSocket.all).toHaveLength(3);
    expect(made.states).toEqual(["connecting", "connected"]);
  });

  it("is not in the way when the old connection dies first", async () => {
    const made = pongs(await start());
    const [old] = FakeSocket.all as [FakeSocket];
    await untilPlanned();
    old.cut(1001);
    made.socket().open();
    made.socket().say(attached());
    expect(made.client.status.state).toBe("connected");
    expect(FakeSocket.all).toHaveLength(2);
  });
});

describe("output", () => {
  it("acknowledges within 200 ms, at 32 KiB, and at once what is repeated or empty", async () => {
    const made = await start();
    made.socket().say(output(0, "abc"));
    expect(made.socket().of("ack")).toHaveLength(0);
    await vi.advanceTimersByTimeAsync(200);
    expect(made.socket().of("ack")).toEqual([{ type: "ack", outputOffset: 3, epoch: EPOCH }]);
    made.socket().say(output(3, "x".repeat(32 * 1024)));
    expect(made.socket().of("ack").at(-1)?.outputOffset).toBe(3 + 32 * 1024);
    await vi.advanceTimersByTimeAsync(100);
    made.socket().say(output(0, "abc"));
    expect(made.socket().of("ack")).toHaveLength(3);
    await vi.advanceTimersByTimeAsync(100);
    made.socket().say(output(3 + 32 * 1024, ""));
    expect(made.socket().of("ack")).toHaveLength(4);
    await vi.advanceTimersByTimeAsync(100);
    made.socket().say(output(99_999, "")); // a probe ahead of us: something was lost
    expect(made.socket().of("ack")).toHaveLength(5);
  });

  it("acknowledges nothing that is not on the screen", async () => {
    const made = await start();
    made.screen.slow = true;
    made.socket().say(output(0, "x".repeat(64 * 1024)));
    await vi.advanceTimersByTimeAsync(1_000);
    expect(made.socket().of("ack")).toHaveLength(0);
    made.screen.confirm();
    expect(made.socket().of("ack").at(-1)?.outputOffset).toBe(64 * 1024);
  });

  it("answers a burst of repeats once", async () => {
    const made = await start();
    made.socket().say(output(0, "abc"));
    for (let i = 0; i < 20; i++) made.socket().say(output(0, "abc"));
    expect(made.socket().of("ack")).toHaveLength(1);
    await vi.advanceTimersByTimeAsync(100);
    expect(made.socket().of("ack")).toHaveLength(2);
  });

  it("trims overlap and holds what comes early", async () => {
    const made = await start();
    made.socket().say(output(4, "ef"));
    made.socket().say(output(0, "abc"));
    made.socket().say(output(1, "bcde"));
    expect(made.screen.text).toBe("abcdef".replace("f", "f"));
  });

  it("bytes that are no UTF-8, cut anywhere, arrive as they are", async () => {
    const made = await start();
    const euro = [0xe2, 0x82, 0xac];
    for (const [offset, byte] of euro.entries()) {
      made.socket().say({ type: "output", epoch: EPOCH, offset, b64: btoa(String.fromCharCode(byte)) });
    }
    expect(made.screen.text).toBe("€");
  });

  it("asks again for what stays missing", async () => {
    const made = await start();
    made.socket().say(output(3, "def"));
    await vi.advanceTimersByTimeAsync(3_000);
    expect(made.socket().of("attach").at(-1)).toMatchObject({ outputOffset: 0, epoch: EPOCH, seq: 2 });
    made.socket().say(attached());
    made.socket().say(output(0, "abc"));
    expect(made.screen.text).toBe("abcdef");
  });

  it("holds a bounded amount of early output", async () => {
    const made = await start();
    const piece = "x".repeat(32_000);
    for (let i = 0; i < 40; i++) made.socket().say(output(1 + i * 32_000, piece));
    made.socket().say(output(0, "y"));
    expect(made.client.diagnostics.outputOffset).toBeLessThanOrEqual(1 + 512 * 1024);
    expect(made.client.diagnostics.outputOffset).toBeGreaterThan(400_000);
  });

  const part = (offset: number, n: number, parts: number, data: string, gap = 5): ServerFrame => ({
    type: "snapshot",
    epoch: EPOCH,
    offset,
    part: n,
    parts,
    cols: 100,
    rows: 30,
    gap,
    data,
  });

  it("puts a snapshot together in any order, then goes on behind it", async () => {
    const made = await start();
    const gaps: number[] = [];
    made.client.on("gap", (gap) => gaps.push(gap));
    made.socket().say(output(10, "after"));
    made.socket().say(part(10, 1, 2, "B"));
    expect(made.screen.resets).toBe(0);
    made.socket().say(part(10, 1, 2, "B"));
    made.socket().say(part(10, 0, 2, "A"));
    expect(made.screen).toMatchObject({ resets: 1, text: "ABafter" });
    expect(gaps).toEqual([5]);
    expect(made.client.diagnostics.outputLost).toBe(5);
    await vi.advanceTimersByTimeAsync(200);
    expect(made.socket().of("ack").at(-1)?.outputOffset).toBe(15);
  });

  it("the newer snapshot wins; parts of the older are dropped", async () => {
    const made = await start();
    made.socket().say(part(10, 0, 2, "old"));
    made.socket().say(part(20, 0, 2, "new"));
    made.socket().say(part(10, 1, 2, "old"));
    made.socket().say(part(20, 1, 2, "!"));
    expect(made.screen).toMatchObject({ resets: 1, text: "new!" });
    made.socket().say(part(10, 0, 1, "older still"));
    expect(made.screen.resets).toBe(1);
  });

  it("output behind a snapshot waits until the picture stands", async () => {
    const made = await start();
    made.screen.slow = true;
    made.socket().say(part(10, 0, 1, "picture"));
    made.socket().say(output(10, " more"));
    expect(made.screen.text).toBe("picture");
    made.screen.confirm();
    expect(made.screen.text).toBe("picture more");
  });

  it("nonsense in a snapshot is dropped", async () => {
    const made = await start();
    for (const [n, parts] of [
      [2, 2],
      [-1, 2],
      [0, 0],
      [0, 1e9],
    ] as const)
      made.socket().say(part(10, n, parts, "x"));
    expect(made.screen.resets).toBe(0);
  });

  it("acts on exit once everything before it is on the screen, and acknowledges that", async () => {
    const made = await start();
    const exits: unknown[] = [];
    made.client.on("exit", (exit) => exits.push(exit));
    made.socket().say({ type: "exit", epoch: EPOCH, offset: 3, exitCode: 130, signal: "SIGINT" });
    expect(exits).toEqual([]);
    made.socket().say(output(0, "bye"));
    expect(exits).toEqual([{ exitCode: 130, signal: "SIGINT" }]);
    expect(made.socket().of("ack").at(-1)?.outputOffset).toBe(3);
    made.socket().say({ type: "exit", epoch: EPOCH, offset: 3, exitCode: 130, signal: "SIGINT" });
    expect(exits).toHaveLength(1);
    expect(made.socket().of("ack").length).toBeGreaterThan(1);
    made.socket().cut(1000);
    await vi.advanceTimersByTimeAsync(3_600_000);
    expect(made.client.status.state).toBe("ended");
    expect(FakeSocket.all).toHaveLength(1);
  });

  it("learns of the exit from attached too", async () => {
    const made = keep(rig());
    const exits: unknown[] = [];
    made.client.on("exit", (exit) => exits.push(exit));
    made.client.connect();
    await settle();
    made.socket().open();
    made.socket().say(attached({ exit: { exitCode: 0 } }));
    made.socket().say(output(0, "bye"));
    await vi.advanceTimersByTimeAsync(2_000);
    expect(exits).toEqual([{ exitCode: 0 }]);
    expect(made.screen.text).toBe("bye");
  });

  it("a new shell: offsets anew, input for the old one dropped, frames of the old one ignored", async () => {
    const made = await start();
    const restarts: number[] = [];
    made.client.on("restart", (discarded) => restarts.push(discarded));
    made.socket().say(output(0, "old"));
    made.client.input("for the old");
    made.socket().say({ type: "notice", code: "SHELL_RESTARTED", message: "new" });
    expect(made.socket().of("attach")).toHaveLength(2);
    made.socket().say(attached({ epoch: EPOCH + 1 }));
    expect(restarts).toEqual([11]);
    made.socket().say(output(3, "late"));
    made.socket().say({ ...(output(0, "new") as object), epoch: EPOCH + 1 } as ServerFrame);
    expect(made.screen.text).toBe("oldnew");
    await vi.advanceTimersByTimeAsync(10_000);
    expect(made.socket().of("input")).toHaveLength(1);
    made.client.input("for the new");
    expect(made.socket().of("input")[1]).toMatchObject({ epoch: EPOCH + 1, offset: 0, data: "for the new" });
  });

  it("asks for everything again when a terminal comes later", async () => {
    const made = await start();
    made.socket().say(output(0, "abc"));
    made.client.sink = made.screen;
    expect(made.socket().of("attach")[1]).not.toHaveProperty("outputOffset");
  });
});

describe("input", () => {
  it("goes out in order, with the offset, the epoch and an acknowledgement", async () => {
    const made = await start();
    made.socket().say(output(0, "abc"));
    made.client.input("ls\r");
    expect(made.socket().of("input")).toEqual([
      {
        type: "input",
        clientId: expect.stringMatching(/^[\w-]{16,64}$/),
        offset: 0,
        data: "ls\r",
        epoch: EPOCH,
        outputOffset: 3,
      },
    ]);
  });

  it("bytes that are no UTF-8 go as base64", async () => {
    const made = await start();
    made.client.input(Uint8Array.of(0xff, 0x00, 0x80));
    expect(made.socket().of("input")[0]).toMatchObject({ b64: btoa("\xff\x00\x80") });
  });

  it("keys pressed together share a frame, Ctrl-C waits for nobody", async () => {
    const made = await start();
    for (const key of "abc") made.client.input(key);
    expect(made.socket().of("input")).toHaveLength(1);
    made.client.input("\x03");
    expect(
      made
        .socket()
        .of("input")
        .map(({ data }) => data),
    ).toEqual(["a", "bc\x03"]);
  });

  it("no frame is over 32,768 bytes, whatever the bytes are", async () => {
    const made = await start();
    for (const text of ["\x01".repeat(60_000), "€".repeat(20_000), '"\\'.repeat(30_000)]) {
      made.client.input(text); // the fake socket throws beyond
      await vi.advanceTimersByTimeAsync(20);
      for (let i = 0; i < 4; i++) {
        const { offset = 0, data, b64 } = made.socket().of("input").at(-1) ?? {};
        const length = data === undefined ? atob(b64 ?? "").length : new TextEncoder().encode(data).length;
        made.socket().say(output(0, "", offset + length));
      }
    }
    expect(made.client.diagnostics.inputOffset).toBe(180_000);
  });

  it("stays within the window of 64 KiB, and goes on as it is acknowledged", async () => {
    const made = await start();
    made.client.input("x".repeat(100_000));
    const sent = () =>
      made
        .socket()
        .of("input")
        .reduce((sum, { data = "" }) => sum + data.length, 0);
    expect(sent()).toBe(64 * 1024);
    made.socket().say(output(0, "echo", 40_000));
    expect(sent()).toBe(100_000);
  });

  it("is sent again from the last acknowledged byte after 500 ms, doubling", async () => {
    const made = await start();
    made.client.input("abc");
    const count = () => made.socket().of("input").length;
    await vi.advanceTimersByTimeAsync(499);
    expect(count()).toBe(1);
    await vi.advanceTimersByTimeAsync(1);
    expect(count()).toBe(2);
    await vi.advanceTimersByTimeAsync(999);
    expect(count()).toBe(2);
    await vi.advanceTimersByTimeAsync(1);
    expect(count()).toBe(3);
    made
      .socket()
      .say({ type: "input_ack", epoch: EPOCH, clientId: made.client.diagnostics.clientId ?? "", inputOffset: 3 });
    await vi.advanceTimersByTimeAsync(20_000);
    expect(count()).toBe(3);
    expect(made.client.diagnostics).toMatchObject({ retransmissions: 6, inputOffset: 3 });
  });

  it("survives a reconnect: what the server has is not sent again, the rest is", async () => {
    const made = await start();
    made.client.input("abcdef");
    made.socket().cut(1006);
    made.client.input("ghi");
    await reconnected(made, { inputOffset: 4 });
    expect(made.socket().of("input")[0]).toMatchObject({ offset: 4, data: "efghi" });
  });

  it("a client that was forgotten takes a new name from 0", async () => {
    const made = await start();
    const name = made.client.diagnostics.clientId;
    made.client.input("abc");
    made.socket().say(output(0, "", 3));
    made.client.input("d");
    made.socket().cut(1006);
    await reconnected(made, { inputOffset: 0 });
    await settle();
    const { clientId } = made.socket().of("attach").at(-1) ?? {};
    expect(clientId).not.toBe(name);
    made.socket().say(attached());
    expect(made.socket().of("input")).toEqual([expect.objectContaining({ clientId, offset: 0, data: "d" })]);
    expect(made.client.status.state).toBe("connected");
  });

  it("a late second attached does not make it think so", async () => {
    const made = await start();
    const name = made.client.diagnostics.clientId;
    made.client.input("abc");
    made.socket().say(output(0, "", 3));
    made.socket().say(attached());
    made.socket().say(error("NOT_ATTACHED", { retryable: true }));
    made.socket().say(attached()); // of before the input
    await settle();
    expect(made.client.diagnostics.clientId).toBe(name);
  });

  it("after a reload it goes on where the server is", async () => {
    const made = keep(rig());
    made.client.connect();
    await settle();
    made.socket().open();
    made.client.input("typed early");
    made.socket().say(attached({ inputOffset: 1234 }));
    expect(made.socket().of("input")[0]).toMatchObject({ offset: 1234, data: "typed early" });
  });

  it("the queue is bounded, and says so", async () => {
    const made = keep(rig());
    await settle();
    expect(made.client.input("x".repeat(1024 * 1024))).toBe(true);
    expect(made.client.input("y")).toBe(false);
    expect(made.errors[0]?.code).toBe("INPUT_QUEUE_FULL");
  });
});

describe("when the page goes", () => {
  // Without Web Locks names are not kept at all: pretend there are some.
  beforeEach(() => {
    const request = async (_name: string, _options: object, then: (lock: object) => unknown) => void then({});
    Object.defineProperty(navigator, "locks", { value: { request }, configurable: true });
  });
  afterEach(() => void Reflect.deleteProperty(navigator, "locks"));

  it("the name is kept for the next one", async () => {
    const made = await start();
    dispatchEvent(new Event("pagehide"));
    const next = await start();
    expect(next.client.diagnostics.clientId).toBe(made.client.diagnostics.clientId);
  });

  it("with input unacknowledged it is not: the server may hold some of it", async () => {
    const made = await start();
    made.client.input("lost");
    dispatchEvent(new Event("pagehide"));
    const next = await start();
    expect(next.client.diagnostics.clientId).not.toBe(made.client.diagnostics.clientId);
  });
});

describe("size", () => {
  it("is said at attach, and by resize with a growing seq until acknowledged", async () => {
    const made = await start({ cols: 100, rows: 40 });
    expect(made.socket().of("attach")[0]).toMatchObject({ cols: 100, rows: 40, seq: 1 });
    made.client.resize(90, 30);
    expect(made.socket().of("resize")).toEqual([{ type: "resize", cols: 90, rows: 30, seq: 2 }]);
    await vi.advanceTimersByTimeAsync(2_000);
    expect(made.socket().of("resize")[1]).toMatchObject({ seq: 3 });
    made.socket().say({ type: "resize_ack", cols: 80, rows: 24, timestamp: 1 });
    await vi.advanceTimersByTimeAsync(20_000);
    expect(made.socket().of("resize")).toHaveLength(2);
  });

  it("changed while attaching, it is said again after", async () => {
    const made = keep(rig());
    made.client.connect();
    await settle();
    made.socket().open();
    made.client.resize(70, 20);
    expect(made.socket().of("resize")).toHaveLength(0);
    made.socket().say(attached());
    expect(made.socket().of("resize")).toEqual([{ type: "resize", cols: 70, rows: 20, seq: 2 }]);
  });

  it("tells the size in force", async () => {
    const made = await start();
    const sizes: unknown[] = [];
    made.client.on("size", (size) => sizes.push(size));
    made.socket().say({ type: "resize_ack", cols: 60, rows: 20, timestamp: 1 });
    expect(sizes).toEqual([{ cols: 60, rows: 20 }]);
  });
});

describe("commands", () => {
  const result = (id: string): ServerFrame => ({
    type: "command_result",
    id,
    result: "42\n",
    exitCode: 0,
    timestamp: 1,
    durationMs: 5,
  });

  it("are answered by id", async () => {
    const made = await start();
    const [a, b] = [made.client.command("one", { id: "a" }), made.client.command("two", { id: "b", timeoutMs: 9 })];
    expect(made.socket().of("command")).toEqual([
      { type: "command", command: "one", id: "a" },
      { type: "command", command: "two", id: "b", timeoutMs: 9 },
    ]);
    made.socket().say(result("b"));
    made.socket().say(result("a"));
    expect((await a).id).toBe("a");
    expect((await b).result).toBe("42\n");
  });

  it("are asked for again under the same id: after a while, and after a reconnect", async () => {
    const made = await start();
    const answer = made.client.command("sleep 1", { id: "a" });
    await vi.advanceTimersByTimeAsync(5_000);
    expect(made.socket().of("command")).toHaveLength(2);
    made.socket().cut(1006);
    await reconnected(made);
    expect(made.socket().of("command")[0]).toMatchObject({ id: "a" });
    made.socket().say(result("a"));
    expect((await answer).exitCode).toBe(0);
  });

  it("fail with the server's error when no retry helps", async () => {
    const made = await start();
    const answer = made.client.command("sleep 99", { id: "a" });
    made.socket().say(error("COMMAND_TIMEOUT", { ref: "a" }));
    await expect(answer).rejects.toMatchObject({ code: "COMMAND_TIMEOUT" });
    expect(made.errors).toEqual([]);
  });

  it("wait out an error that a retry helps, and fail with it in the end", async () => {
    const made = await start();
    const answer = made.client.command("x", { id: "a", timeoutMs: 10_000 });
    const failed = expect(answer).rejects.toMatchObject({ code: "RATE_LIMITED" });
    made.socket().onSend = (frame) =>
      frame.type === "ping"
        ? made.socket().say({ type: "pong", timestamp: 1, echo: frame.timestamp })
        : frame.type === "command" && made.socket().say(error("RATE_LIMITED", { ref: "a", retryable: true }));
    await vi.advanceTimersByTimeAsync(40_000);
    await failed;
    expect(made.socket().of("command").length).toBeGreaterThan(2);
  });

  it("end with the client", async () => {
    const made = await start();
    const answer = made.client.command("x");
    made.client.close();
    await expect(answer).rejects.toMatchObject({ code: "CLOSED" });
  });

  it("work without a terminal", async () => {
    const made = keep(rig({ attach: false }));
    made.client.connect();
    await settle();
    made.socket().open();
    expect(made.client.status.state).toBe("connected");
    expect(made.socket().of("attach")).toHaveLength(0);
  });
});

describe("tokens", () => {
  const at = (seconds: number) => jwt({ exp: Math.floor(Date.now() / 1000) + seconds, sessionId: "from-token" });

  it("may name the session", async () => {
    const made = await start({ token: at(3600), sessionId: undefined });
    expect(made.socket().url).toContain("sessionId=from-token");
  });

  it("that ended are renewed before the first attempt", async () => {
    const fresh = at(3600);
    const made = keep(rig({ token: at(-1), refreshToken: async () => fresh }));
    made.client.connect();
    await settle();
    expect(made.socket().url).toContain(encodeURIComponent(fresh));
  });

  it("are renewed shortly before they end, without a break", async () => {
    const fresh = at(7200);
    const made = pongs(await start({ token: at(120), refreshToken: async () => fresh }));
    await vi.advanceTimersByTimeAsync(91_000);
    expect(FakeSocket.all).toHaveLength(2);
    expect(made.socket().url).toContain(encodeURIComponent(fresh));
    made.socket().open();
    made.socket().say(attached());
    expect(FakeSocket.all[0]?.closedWith).toBe(1000);
    expect(made.states).toEqual(["connecting", "connected"]);
  });

  it("TOKEN_EXPIRED from the server renews and reconnects at once", async () => {
    const fresh = at(7200);
    const made = await start({ token: at(3600), refreshToken: async () => fresh });
    made.socket().say(error("TOKEN_EXPIRED"));
    made.socket().cut(1000);
    await settle();
    made.socket().open();
    made.socket().say(attached());
    expect(made.client.status.state).toBe("connected");
    expect(made.client.token).toBe(fresh);
  });

  it("when no new one can be had, that is the end", async () => {
    const made = await start({ token: at(3600), refreshToken: () => Promise.reject(new Error("no")) });
    made.socket().say(error("TOKEN_EXPIRED"));
    await settle();
    expect(made.client.status).toMatchObject({ state: "failed", error: { code: "TOKEN_EXPIRED" } });
  });

  it("a refresh that never answers is given up", async () => {
    const made = await start({ token: at(3600), refreshToken: () => new Promise(() => {}) });
    made.socket().say(error("TOKEN_EXPIRED"));
    await vi.advanceTimersByTimeAsync(8_000);
    expect(made.client.status.state).toBe("failed");
  });
});

describe("diagnosis of a refused handshake", () => {
  const refused = async (answer: object | Error, more: Parameters<typeof rig>[0] = {}) => {
    const asked: [string, RequestInit | undefined][] = [];
    const fetcher = (async (url: URL, init?: RequestInit) => {
      asked.push([String(url), init]);
      if (answer instanceof Error) throw answer;
      return { json: async () => answer };
    }) as unknown as typeof fetch;
    const made = keep(
      rig({ diagnosticsUrl: "https://api.example/api/diagnostics/websocket", fetch: fetcher, ...more }),
    );
    made.client.connect();
    await settle();
    made.socket().cut(1006);
    await settle();
    return { ...made, asked };
  };

  it("asks the endpoint with the token in a header", async () => {
    const { asked } = await refused({ ok: true });
    expect(asked[0]?.[0]).toBe("https://api.example/api/diagnostics/websocket?sessionId=s1");
    expect(asked[0]?.[1]?.headers).toEqual({ authorization: "Bearer secret-token" });
    expect(asked[0]?.[1]?.credentials).toBe("omit");
  });

  it.each(["SESSION_INVALID", "SESSION_EXPIRED", "FORBIDDEN", "ORIGIN_NOT_ALLOWED", "TOKEN_EXPIRED", "MISSING_AUTH"])(
    "%s is the true cause, and ends it",
    async (code) => {
      const made = await refused({ ok: false, code, message: "because" });
      expect(made.client.status).toMatchObject({ state: "failed", error: { code, message: "because" } });
    },
  );

  it.each([
    ["nothing wrong", { ok: true }, "HANDSHAKE_REFUSED"],
    ["something passing", { ok: false, code: "BACKEND_UNAVAILABLE" }, "BACKEND_UNAVAILABLE"],
    ["nonsense", { hello: 1 }, "CONNECTION_FAILED"],
    ["no answer", new TypeError("fetch failed"), "CONNECTION_FAILED"],
  ])("%s: tried again", async (_name, answer, code) => {
    const made = await refused(answer);
    expect(made.client.status).toMatchObject({ state: "reconnecting", error: { code } });
    expect(made.errors.map((error) => error.code)).toEqual([code]);
  });

  it("regression_wrong_stage: an address without its stage is asked about, beside the server's own", async () => {
    const made = await refused({ ok: true, webSocketUrl: "wss://host/prod" }, { url: "wss://host", maxRetries: 1 });
    const text =
      "The backend knows this session, but no handshake at wss://host has succeeded. " +
      "Is the stage missing (wss://HOST/STAGE)? The server's URL is wss://host/prod.";
    expect(made.client.status.error?.message).toBe(text);
    await vi.advanceTimersByTimeAsync(250);
    made.socket().cut(1006);
    await settle();
    expect(made.client.status.error).toMatchObject({
      code: "MAX_RETRIES_EXCEEDED",
      message: expect.stringContaining(text),
    });
  });

  it("a refusal at the server's own address says nothing of stages", async () => {
    const made = await refused({ ok: true, webSocketUrl: "wss://host/prod" });
    expect(made.client.status.error).toMatchObject({ code: "HANDSHAKE_REFUSED" });
    expect(made.client.status.error?.message).not.toContain("stage");
  });

  it("once a handshake was accepted, it is not the address", async () => {
    const fetcher = (async () => ({ json: async () => ({ ok: true }) })) as unknown as typeof fetch;
    const made = await start({ diagnosticsUrl: "https://x.example/", fetch: fetcher });
    made.socket().cut(1001);
    await vi.advanceTimersByTimeAsync(250);
    made.socket().cut(1006);
    await settle();
    expect(made.errors.map(({ code }) => code)).toEqual(["CONNECTION_FAILED"]);
  });

  it("TOKEN_EXPIRED with a way to a new token goes on with that", async () => {
    const made = await refused({ ok: false, code: "TOKEN_EXPIRED" }, { refreshToken: async () => "fresh" });
    await vi.advanceTimersByTimeAsync(250);
    expect(FakeSocket.all).toHaveLength(2);
    expect(made.socket().url).toContain("token=fresh");
  });

  it("TOKEN_EXPIRED again and again is given up in the end", async () => {
    let count = 0;
    const made = await refused({ ok: false, code: "TOKEN_EXPIRED" }, { refreshToken: async () => `fresh-${count++}` });
    for (let i = 0; i < 12; i++) {
      await vi.advanceTimersByTimeAsync(30_000);
      made.socket().cut(1006);
      await settle();
    }
    expect(made.client.status.error?.code).toBe("MAX_RETRIES_EXCEEDED");
    expect(FakeSocket.all.length).toBeLessThan(13);
  });

  it("is not asked when a working connection broke", async () => {
    const made = await start({ diagnosticsUrl: "https://x.example/", fetch: vi.fn() });
    made.socket().cut(1006);
    await settle();
    expect(made.client.status.state).toBe("reconnecting");
  });

  it("that hangs does not outlive close()", async () => {
    const hanging = ((_url: URL, init: RequestInit) =>
      new Promise((_, reject) =>
        init.signal?.addEventListener("abort", () => reject(new Error("aborted"))),
      )) as typeof fetch;
    const made = keep(rig({ diagnosticsUrl: "https://x.example/", fetch: hanging }));
    made.client.connect();
    await settle();
    made.socket().cut(1006);
    made.client.close();
    await settle();
    expect(vi.getTimerCount()).toBe(0);
  });
});

describe("a backend that does not answer, on a line that lives", () => {
  const dead = { type: "error", code: "BACKEND_UNAVAILABLE", message: "no", retryable: true, ref: "ping" } as const;
  const pong = { type: "pong", timestamp: 1 } as const;

  it("regression_silent_backend: is an error from its first missing answer to its next answer", async () => {
    const made = await start();
    made.socket().say(pong);
    const since = Date.now();
    made.socket().say(dead);
    await vi.advanceTimersByTimeAsync(60_000);
    made.socket().say(dead);
    expect(made.client.status).toMatchObject({ state: "connected", error: { code: "BACKEND_UNAVAILABLE" } });
    expect(made.client.diagnostics.unansweredSince).toBe(since);
    made.socket().say(output(0, "pushed")); // says nothing of the way there
    expect(made.client.diagnostics.unansweredSince).toBe(since);
    made.socket().say(pong);
    expect(made.client.status.error).toBeUndefined();
    expect(made.client.diagnostics.unansweredSince).toBeUndefined();
    expect(made.states).toEqual(["connecting", "connected"]);
  });

  it("is asked again soon, then ever less often, and no more once it answers", async () => {
    const made = await start();
    const { socket } = made;
    socket().say(pong);
    const pings = () => socket().of("ping").length;
    const before = pings();
    for (let second = 0; second < 600; second++) {
      if (pings() > before || second === 0) socket().say(dead);
      await vi.advanceTimersByTimeAsync(1_000);
      if (second === 0) expect(pings()).toBeGreaterThan(before);
    }
    expect(pings() - before).toBeGreaterThan(20);
    expect(pings() - before).toBeLessThan(60);
    socket().say(pong);
    const after = pings();
    await vi.advanceTimersByTimeAsync(25_000);
    expect(pings()).toBe(after);
  });

  it("an error that is final for its frame alone is no state", async () => {
    const made = await start();
    made.socket().say({ type: "error", code: "TOO_LARGE", message: "no", retryable: false });
    expect(made.client.status.error).toBeUndefined();
    expect(made.errors.map(({ code }) => code)).toEqual(["TOO_LARGE"]);
  });
});
