// @vitest-environment jsdom
// Output: acks, reassembly, snapshots, exit, new shells.
import { describe, expect, it, vi } from "vitest";
import type { ServerFrame } from "../src/protocol.gen";
import { attached, connected, EPOCH, output, rig, settle, setUpFakeSockets } from "./support/client";
import { FakeSocket } from "./support/socket";

setUpFakeSockets();

describe("output", () => {
  it("acks within 200 ms, at 32 KiB, and at once if repeated or empty", async () => {
    const setup = await connected();
    setup.socket().deliver(output(0, "abc"));
    expect(setup.socket().of("ack")).toHaveLength(0);
    await vi.advanceTimersByTimeAsync(200);
    expect(setup.socket().of("ack")).toEqual([{ type: "ack", outputOffset: 3, epoch: EPOCH }]);
    setup.socket().deliver(output(3, "x".repeat(32 * 1024)));
    expect(setup.socket().of("ack").at(-1)?.outputOffset).toBe(3 + 32 * 1024);
    await vi.advanceTimersByTimeAsync(100);
    setup.socket().deliver(output(0, "abc"));
    expect(setup.socket().of("ack")).toHaveLength(3);
    await vi.advanceTimersByTimeAsync(100);
    setup.socket().deliver(output(3 + 32 * 1024, ""));
    expect(setup.socket().of("ack")).toHaveLength(4);
    await vi.advanceTimersByTimeAsync(100);
    setup.socket().deliver(output(99_999, "")); // a probe ahead of `next`: output was lost
    expect(setup.socket().of("ack")).toHaveLength(5);
  });

  it("acks only what is on the screen", async () => {
    const setup = await connected();
    setup.screen.slow = true;
    setup.socket().deliver(output(0, "x".repeat(64 * 1024)));
    await vi.advanceTimersByTimeAsync(1_000);
    expect(setup.socket().of("ack")).toHaveLength(0);
    setup.screen.confirm();
    expect(setup.socket().of("ack").at(-1)?.outputOffset).toBe(64 * 1024);
  });

  it("acks a burst of repeats once", async () => {
    const setup = await connected();
    setup.socket().deliver(output(0, "abc"));
    for (let i = 0; i < 20; i++) setup.socket().deliver(output(0, "abc"));
    expect(setup.socket().of("ack")).toHaveLength(1);
    await vi.advanceTimersByTimeAsync(100);
    expect(setup.socket().of("ack")).toHaveLength(2);
  });

  it("trims overlaps and buffers early frames", async () => {
    const setup = await connected();
    setup.socket().deliver(output(4, "ef"));
    setup.socket().deliver(output(0, "abc"));
    setup.socket().deliver(output(1, "bcde"));
    expect(setup.screen.text).toBe("abcdef".replace("f", "f"));
  });

  it("reassembles characters split across frames", async () => {
    const setup = await connected();
    const euro = [0xe2, 0x82, 0xac];
    for (const [offset, byte] of euro.entries()) {
      setup.socket().deliver({ type: "output", epoch: EPOCH, offset, b64: btoa(String.fromCharCode(byte)) });
    }
    expect(setup.screen.text).toBe("€");
  });

  it("attaches again for a hole that stays open", async () => {
    const setup = await connected();
    setup.socket().deliver(output(3, "def"));
    await vi.advanceTimersByTimeAsync(3_000);
    expect(setup.socket().of("attach").at(-1)).toMatchObject({ outputOffset: 0, epoch: EPOCH, seq: 2 });
    setup.socket().deliver(attached());
    setup.socket().deliver(output(0, "abc"));
    expect(setup.screen.text).toBe("abcdef");
  });

  it("buffers a bounded amount of early output", async () => {
    const setup = await connected();
    const piece = "x".repeat(32_000);
    for (let i = 0; i < 40; i++) setup.socket().deliver(output(1 + i * 32_000, piece));
    setup.socket().deliver(output(0, "y"));
    expect(setup.client.diagnostics.outputOffset).toBeLessThanOrEqual(1 + 512 * 1024);
    expect(setup.client.diagnostics.outputOffset).toBeGreaterThan(400_000);
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

  it("assembles a snapshot in any order and continues behind it", async () => {
    const setup = await connected();
    const gaps: number[] = [];
    setup.client.on("gap", (gap) => gaps.push(gap));
    setup.socket().deliver(output(10, "after"));
    setup.socket().deliver(part(10, 1, 2, "B"));
    expect(setup.screen.resets).toBe(0);
    setup.socket().deliver(part(10, 1, 2, "B"));
    setup.socket().deliver(part(10, 0, 2, "A"));
    expect(setup.screen).toMatchObject({ resets: 1, text: "ABafter" });
    expect(gaps).toEqual([5]);
    expect(setup.client.diagnostics.outputLost).toBe(5);
    await vi.advanceTimersByTimeAsync(200);
    expect(setup.socket().of("ack").at(-1)?.outputOffset).toBe(15);
  });

  it("prefers the newer snapshot and drops parts of the older", async () => {
    const setup = await connected();
    setup.socket().deliver(part(10, 0, 2, "old"));
    setup.socket().deliver(part(20, 0, 2, "new"));
    setup.socket().deliver(part(10, 1, 2, "old"));
    setup.socket().deliver(part(20, 1, 2, "!"));
    expect(setup.screen).toMatchObject({ resets: 1, text: "new!" });
    setup.socket().deliver(part(10, 0, 1, "older still"));
    expect(setup.screen.resets).toBe(1);
  });

  it("holds output until the snapshot before it is applied", async () => {
    const setup = await connected();
    setup.screen.slow = true;
    setup.socket().deliver(part(10, 0, 1, "picture"));
    setup.socket().deliver(output(10, " more"));
    expect(setup.screen.text).toBe("picture");
    setup.screen.confirm();
    expect(setup.screen.text).toBe("picture more");
  });

  it("drops invalid snapshot parts", async () => {
    const setup = await connected();
    for (const [n, parts] of [
      [2, 2],
      [-1, 2],
      [0, 0],
      [0, 1e9],
    ] as const)
      setup.socket().deliver(part(10, n, parts, "x"));
    expect(setup.screen.resets).toBe(0);
  });

  it("reports exit once the output before it is on the screen, and acks", async () => {
    const setup = await connected();
    const exits: unknown[] = [];
    setup.client.on("exit", (exit) => exits.push(exit));
    setup.socket().deliver({ type: "exit", epoch: EPOCH, offset: 3, exitCode: 130, signal: "SIGINT" });
    expect(exits).toEqual([]);
    setup.socket().deliver(output(0, "bye"));
    expect(exits).toEqual([{ exitCode: 130, signal: "SIGINT" }]);
    expect(setup.socket().of("ack").at(-1)?.outputOffset).toBe(3);
    setup.socket().deliver({ type: "exit", epoch: EPOCH, offset: 3, exitCode: 130, signal: "SIGINT" });
    expect(exits).toHaveLength(1);
    expect(setup.socket().of("ack").length).toBeGreaterThan(1);
    setup.socket().cut(1000);
    await vi.advanceTimersByTimeAsync(3_600_000);
    expect(setup.client.status.state).toBe("ended");
    expect(FakeSocket.all).toHaveLength(1);
  });

  it("learns of the exit from attached", async () => {
    const setup = rig();
    const exits: unknown[] = [];
    setup.client.on("exit", (exit) => exits.push(exit));
    setup.client.connect();
    await settle();
    setup.socket().open();
    setup.socket().deliver(attached({ exit: { exitCode: 0 } }));
    setup.socket().deliver(output(0, "bye"));
    await vi.advanceTimersByTimeAsync(2_000);
    expect(exits).toEqual([{ exitCode: 0 }]);
    expect(setup.screen.text).toBe("bye");
  });

  it("starts over for a new shell and ignores the old one", async () => {
    const setup = await connected();
    const restarts: number[] = [];
    setup.client.on("restart", (discarded) => restarts.push(discarded));
    setup.socket().deliver(output(0, "old"));
    setup.client.input("for the old");
    setup.socket().deliver({ type: "notice", code: "SHELL_RESTARTED", message: "new" });
    expect(setup.socket().of("attach")).toHaveLength(2);
    setup.socket().deliver(attached({ epoch: EPOCH + 1 }));
    expect(restarts).toEqual([11]);
    setup.socket().deliver(output(3, "late"));
    setup.socket().deliver({ ...(output(0, "new") as object), epoch: EPOCH + 1 } as ServerFrame);
    expect(setup.screen.text).toBe("oldnew");
    await vi.advanceTimersByTimeAsync(10_000);
    expect(setup.socket().of("input")).toHaveLength(1);
    setup.client.input("for the new");
    expect(setup.socket().of("input")[1]).toMatchObject({ epoch: EPOCH + 1, offset: 0, data: "for the new" });
  });

  it("requests all output again for a terminal attached later", async () => {
    const setup = await connected();
    setup.socket().deliver(output(0, "abc"));
    setup.client.sink = setup.screen;
    expect(setup.socket().of("attach")[1]).not.toHaveProperty("outputOffset");
  });
});
