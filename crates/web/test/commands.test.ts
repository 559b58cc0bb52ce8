// @vitest-environment jsdom
// Commands: results by id, repetition, errors.
import { describe, expect, it, vi } from "vitest";
import type { ServerFrame } from "../src/protocol.gen";
import { connected, errorFrame, reconnected, rig, settle, setUpFakeSockets } from "./support/client";

setUpFakeSockets();

describe("commands", () => {
  const result = (id: string): ServerFrame => ({
    type: "command_result",
    id,
    result: "42\n",
    exitCode: 0,
    timestamp: 1,
    durationMs: 5,
  });

  it("resolve by id", async () => {
    const setup = await connected();
    const [a, b] = [setup.client.command("one", { id: "a" }), setup.client.command("two", { id: "b", timeoutMs: 9 })];
    expect(setup.socket().of("command")).toEqual([
      { type: "command", command: "one", id: "a" },
      { type: "command", command: "two", id: "b", timeoutMs: 9 },
    ]);
    setup.socket().deliver(result("b"));
    setup.socket().deliver(result("a"));
    expect((await a).id).toBe("a");
    expect((await b).result).toBe("42\n");
  });

  it("are resent under the same id, also after a reconnect", async () => {
    const setup = await connected();
    const answer = setup.client.command("sleep 1", { id: "a" });
    await vi.advanceTimersByTimeAsync(5_000);
    expect(setup.socket().of("command")).toHaveLength(2);
    setup.socket().cut(1006);
    await reconnected(setup);
    expect(setup.socket().of("command")[0]).toMatchObject({ id: "a" });
    setup.socket().deliver(result("a"));
    expect((await answer).exitCode).toBe(0);
  });

  it("reject with a permanent error", async () => {
    const setup = await connected();
    const answer = setup.client.command("sleep 99", { id: "a" });
    setup.socket().deliver(errorFrame("COMMAND_TIMEOUT", { ref: "a" }));
    await expect(answer).rejects.toMatchObject({ code: "COMMAND_TIMEOUT" });
    expect(setup.errors).toEqual([]);
  });

  it("retry after a retryable error, and reject with it at the deadline", async () => {
    const setup = await connected();
    const answer = setup.client.command("x", { id: "a", timeoutMs: 10_000 });
    const failed = expect(answer).rejects.toMatchObject({ code: "RATE_LIMITED" });
    setup.socket().onSend = (frame) =>
      frame.type === "ping"
        ? setup.socket().deliver({ type: "pong", timestamp: 1, echo: frame.timestamp })
        : frame.type === "command" && setup.socket().deliver(errorFrame("RATE_LIMITED", { ref: "a", retryable: true }));
    await vi.advanceTimersByTimeAsync(40_000);
    await failed;
    expect(setup.socket().of("command").length).toBeGreaterThan(2);
  });

  it("reject when the client closes", async () => {
    const setup = await connected();
    const answer = setup.client.command("x");
    setup.client.close();
    await expect(answer).rejects.toMatchObject({ code: "CLOSED" });
  });

  it("work without a terminal", async () => {
    const setup = rig({ attach: false });
    setup.client.connect();
    await settle();
    setup.socket().open();
    expect(setup.client.status.state).toBe("connected");
    expect(setup.socket().of("attach")).toHaveLength(0);
  });
});
