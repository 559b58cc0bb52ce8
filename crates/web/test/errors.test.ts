// @vitest-environment jsdom
// `error` frames: which end the client, which are reported, and a backend that does not answer.
import { describe, expect, it, vi } from "vitest";
import { TerminalError } from "../src/client";
import type { ErrorCode, ServerFrame } from "../src/protocol.gen";
import { attached, connected, errorFrame, output, reconnected, settle, setUpFakeSockets } from "./support/client";
import { FakeSocket } from "./support/socket";

setUpFakeSockets();

describe("error codes", () => {
  it.each<[ErrorCode, Partial<Extract<ServerFrame, { type: "error" }>>]>([
    ["SESSION_INVALID", {}],
    ["SESSION_EXPIRED", {}],
    ["FORBIDDEN", {}],
    ["FORBIDDEN", { ref: "attach" }],
    ["REPLACED", { ref: "input" }],
    ["TOKEN_EXPIRED", {}],
  ])("%s ends the client", async (code, more) => {
    const setup = await connected();
    setup.socket().deliver(errorFrame(code, more));
    await settle();
    expect(setup.client.status).toMatchObject({ state: "failed", error: { code } });
    expect(setup.socket().closedWith).toBe(1000);
    await vi.advanceTimersByTimeAsync(3_600_000);
    expect(FakeSocket.all).toHaveLength(1);
  });

  it.each<[ErrorCode, Partial<Extract<ServerFrame, { type: "error" }>>]>([
    ["BAD_FRAME", { ref: "resize" }],
    ["TOO_LARGE", { ref: "input" }],
    ["RATE_LIMITED", { retryable: true }],
    ["FORBIDDEN", { ref: "clear" }],
    ["SESSION_INVALID", { retryable: true }],
    ["COMMAND_TIMEOUT", { ref: "unknown-id" }],
    ["COMMAND_FAILED", { ref: "unknown-id" }],
    ["BACKEND_UNAVAILABLE", { retryable: true, ref: "input" }],
    ["BACKEND_TIMEOUT", { retryable: true, ref: "attach" }],
    ["INTERNAL", {}],
  ])("%s is reported, and the connection stays", async (code, more) => {
    const setup = await connected();
    setup.socket().deliver(errorFrame(code, more));
    expect(setup.errors).toHaveLength(1);
    expect(setup.errors[0]).toBeInstanceOf(TerminalError);
    expect(setup.errors[0]?.code).toBe(code);
    expect(setup.client.status.state).toBe("connected");
  });

  it("a retryable SESSION_INVALID leads to a reconnect", async () => {
    const setup = await connected();
    await vi.advanceTimersByTimeAsync(1_000);
    setup.socket().deliver(errorFrame("SESSION_INVALID", { retryable: true }));
    setup.socket().cut(1000);
    await reconnected(setup);
    expect(setup.client.status.state).toBe("connected");
  });

  it("several NOT_ATTACHED cause one attach", async () => {
    const setup = await connected();
    setup.client.input("x");
    setup.socket().deliver(errorFrame("NOT_ATTACHED", { retryable: true, ref: "input" }));
    setup.socket().deliver(errorFrame("NOT_ATTACHED", { retryable: true, ref: "ack" }));
    expect(setup.socket().of("attach")).toHaveLength(2);
    setup.socket().deliver(attached());
    expect(
      setup
        .socket()
        .of("input")
        .map(({ offset, data }) => [offset, data]),
    ).toEqual([
      [0, "x"],
      [0, "x"],
    ]);
    expect(setup.errors).toEqual([]);
  });

  it("READ_ONLY discards input and rejects more", async () => {
    const setup = await connected();
    setup.client.input("x");
    setup.socket().deliver(errorFrame("READ_ONLY", { ref: "input" }));
    expect(setup.client.status.readOnly).toBe(true);
    expect(setup.client.input("y")).toBe(false);
    await vi.advanceTimersByTimeAsync(20_000);
    expect(setup.socket().of("input")).toHaveLength(1);
  });

  it("INPUT_GAP resends from its offset, at most every 500 ms", async () => {
    const setup = await connected();
    setup.client.input("abc");
    await vi.advanceTimersByTimeAsync(499);
    setup.socket().deliver(errorFrame("INPUT_GAP", { retryable: true, inputOffset: 1 }));
    expect(setup.socket().of("input")).toHaveLength(1);
    await vi.advanceTimersByTimeAsync(2_000);
    const again = setup.socket().of("input").at(-1);
    expect(again).toMatchObject({ offset: 1, data: "bc" });
    const count = setup.socket().of("input").length;
    setup.socket().deliver(errorFrame("INPUT_GAP", { retryable: true, inputOffset: 1 }));
    expect(setup.socket().of("input").length - count).toBeLessThanOrEqual(1);
  });

  it("ignores API Gateway's messages and other junk", async () => {
    const setup = await connected();
    for (const junk of ['{"message": "Internal server error"}', "not json", "[]", "7", new Blob(["x"])]) {
      setup.socket().deliverRaw(junk);
    }
    expect(setup.client.status.state).toBe("connected");
    setup.socket().deliver(output(0, "still here"));
    expect(setup.screen.text).toBe("still here");
  });
});

describe("a backend that does not answer on an open connection", () => {
  const dead = { type: "error", code: "BACKEND_UNAVAILABLE", message: "no", retryable: true, ref: "ping" } as const;
  const pong = { type: "pong", timestamp: 1 } as const;

  it("regression_silent_backend: sets the error until the next answer", async () => {
    const setup = await connected();
    setup.socket().deliver(pong);
    const since = Date.now();
    setup.socket().deliver(dead);
    await vi.advanceTimersByTimeAsync(60_000);
    setup.socket().deliver(dead);
    expect(setup.client.status).toMatchObject({ state: "connected", error: { code: "BACKEND_UNAVAILABLE" } });
    expect(setup.client.diagnostics.unansweredSince).toBe(since);
    setup.socket().deliver(output(0, "pushed")); // not an answer, so it proves nothing
    expect(setup.client.diagnostics.unansweredSince).toBe(since);
    setup.socket().deliver(pong);
    expect(setup.client.status.error).toBeUndefined();
    expect(setup.client.diagnostics.unansweredSince).toBeUndefined();
    expect(setup.states).toEqual(["connecting", "connected"]);
  });

  it("is pinged with backoff until it answers", async () => {
    const setup = await connected();
    const { socket } = setup;
    socket().deliver(pong);
    const pings = () => socket().of("ping").length;
    const before = pings();
    for (let second = 0; second < 600; second++) {
      if (pings() > before || second === 0) socket().deliver(dead);
      await vi.advanceTimersByTimeAsync(1_000);
      if (second === 0) expect(pings()).toBeGreaterThan(before);
    }
    expect(pings() - before).toBeGreaterThan(20);
    expect(pings() - before).toBeLessThan(60);
    socket().deliver(pong);
    const after = pings();
    await vi.advanceTimersByTimeAsync(25_000);
    expect(pings()).toBe(after);
  });

  it("a permanent error of one frame leaves the status alone", async () => {
    const setup = await connected();
    setup.socket().deliver({ type: "error", code: "TOO_LARGE", message: "no", retryable: false });
    expect(setup.client.status.error).toBeUndefined();
    expect(setup.errors.map(({ code }) => code)).toEqual(["TOO_LARGE"]);
  });
});
