// @vitest-environment jsdom
// Input and size: frames, window, retransmission, and the client id across pages.
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import {
  attached,
  connected,
  EPOCH,
  errorFrame,
  output,
  reconnected,
  rig,
  settle,
  setUpFakeSockets,
} from "./support/client";

setUpFakeSockets();

describe("input", () => {
  it("carries offset, epoch and an ack", async () => {
    const setup = await connected();
    setup.socket().deliver(output(0, "abc"));
    setup.client.input("ls\r");
    expect(setup.socket().of("input")).toEqual([
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

  it("sends bytes that are not UTF-8 as base64", async () => {
    const setup = await connected();
    setup.client.input(Uint8Array.of(0xff, 0x00, 0x80));
    expect(setup.socket().of("input")[0]).toMatchObject({ b64: btoa("\xff\x00\x80") });
  });

  it("coalesces keys, except Ctrl-C", async () => {
    const setup = await connected();
    for (const key of "abc") setup.client.input(key);
    expect(setup.socket().of("input")).toHaveLength(1);
    setup.client.input("\x03");
    expect(
      setup
        .socket()
        .of("input")
        .map(({ data }) => data),
    ).toEqual(["a", "bc\x03"]);
  });

  it("never exceeds 32,768 bytes per frame", async () => {
    const setup = await connected();
    for (const text of ["\x01".repeat(60_000), "€".repeat(20_000), '"\\'.repeat(30_000)]) {
      setup.client.input(text); // the fake socket throws if a frame is longer
      await vi.advanceTimersByTimeAsync(20);
      for (let i = 0; i < 4; i++) {
        const { offset = 0, data, b64 } = setup.socket().of("input").at(-1) ?? {};
        const length = data === undefined ? atob(b64 ?? "").length : new TextEncoder().encode(data).length;
        setup.socket().deliver(output(0, "", offset + length));
      }
    }
    expect(setup.client.diagnostics.inputOffset).toBe(180_000);
  });

  it("stays within the 64 KiB window and continues with each ack", async () => {
    const setup = await connected();
    setup.client.input("x".repeat(100_000));
    const sent = () =>
      setup
        .socket()
        .of("input")
        .reduce((sum, { data = "" }) => sum + data.length, 0);
    expect(sent()).toBe(64 * 1024);
    setup.socket().deliver(output(0, "echo", 40_000));
    expect(sent()).toBe(100_000);
  });

  it("is resent from the last ack after 500 ms, doubling", async () => {
    const setup = await connected();
    setup.client.input("abc");
    const count = () => setup.socket().of("input").length;
    await vi.advanceTimersByTimeAsync(499);
    expect(count()).toBe(1);
    await vi.advanceTimersByTimeAsync(1);
    expect(count()).toBe(2);
    await vi.advanceTimersByTimeAsync(999);
    expect(count()).toBe(2);
    await vi.advanceTimersByTimeAsync(1);
    expect(count()).toBe(3);
    setup
      .socket()
      .deliver({ type: "input_ack", epoch: EPOCH, clientId: setup.client.diagnostics.clientId ?? "", inputOffset: 3 });
    await vi.advanceTimersByTimeAsync(20_000);
    expect(count()).toBe(3);
    expect(setup.client.diagnostics).toMatchObject({ retransmissions: 6, inputOffset: 3 });
  });

  it("resumes after a reconnect at the offset of the server", async () => {
    const setup = await connected();
    setup.client.input("abcdef");
    setup.socket().cut(1006);
    setup.client.input("ghi");
    await reconnected(setup, { inputOffset: 4 });
    expect(setup.socket().of("input")[0]).toMatchObject({ offset: 4, data: "efghi" });
  });

  it("continues from 0 under a new client id if forgotten", async () => {
    const setup = await connected();
    const name = setup.client.diagnostics.clientId;
    setup.client.input("abc");
    setup.socket().deliver(output(0, "", 3));
    setup.client.input("d");
    setup.socket().cut(1006);
    await reconnected(setup, { inputOffset: 0 });
    await settle();
    const { clientId } = setup.socket().of("attach").at(-1) ?? {};
    expect(clientId).not.toBe(name);
    setup.socket().deliver(attached());
    expect(setup.socket().of("input")).toEqual([expect.objectContaining({ clientId, offset: 0, data: "d" })]);
    expect(setup.client.status.state).toBe("connected");
  });

  it("is not taken for forgotten by a late second attached", async () => {
    const setup = await connected();
    const name = setup.client.diagnostics.clientId;
    setup.client.input("abc");
    setup.socket().deliver(output(0, "", 3));
    setup.socket().deliver(attached());
    setup.socket().deliver(errorFrame("NOT_ATTACHED", { retryable: true }));
    setup.socket().deliver(attached()); // sent before the server read the input
    await settle();
    expect(setup.client.diagnostics.clientId).toBe(name);
  });

  it("continues at the offset of the server after a reload", async () => {
    const setup = rig();
    setup.client.connect();
    await settle();
    setup.socket().open();
    setup.client.input("typed early");
    setup.socket().deliver(attached({ inputOffset: 1234 }));
    expect(setup.socket().of("input")[0]).toMatchObject({ offset: 1234, data: "typed early" });
  });

  it("is rejected once the queue is full", async () => {
    const setup = rig();
    await settle();
    expect(setup.client.input("x".repeat(1024 * 1024))).toBe(true);
    expect(setup.client.input("y")).toBe(false);
    expect(setup.errors[0]?.code).toBe("INPUT_QUEUE_FULL");
  });
});

describe("when the page is unloaded", () => {
  // jsdom has no Web Locks, without which client ids are not saved.
  beforeEach(() => {
    const request = async (_name: string, _options: object, then: (lock: object) => unknown) => void then({});
    Object.defineProperty(navigator, "locks", { value: { request }, configurable: true });
  });
  afterEach(() => void Reflect.deleteProperty(navigator, "locks"));

  it("the next page takes over the client id", async () => {
    const setup = await connected();
    dispatchEvent(new Event("pagehide"));
    const next = await connected();
    expect(next.client.diagnostics.clientId).toBe(setup.client.diagnostics.clientId);
  });

  it("the next page gets a new client id if input is unacknowledged", async () => {
    const setup = await connected();
    setup.client.input("lost");
    dispatchEvent(new Event("pagehide"));
    const next = await connected();
    expect(next.client.diagnostics.clientId).not.toBe(setup.client.diagnostics.clientId);
  });
});

describe("size", () => {
  it("is sent in attach, then in resize until acknowledged", async () => {
    const setup = await connected({ cols: 100, rows: 40 });
    expect(setup.socket().of("attach")[0]).toMatchObject({ cols: 100, rows: 40, seq: 1 });
    setup.client.resize(90, 30);
    expect(setup.socket().of("resize")).toEqual([{ type: "resize", cols: 90, rows: 30, seq: 2 }]);
    await vi.advanceTimersByTimeAsync(2_000);
    expect(setup.socket().of("resize")[1]).toMatchObject({ seq: 3 });
    setup.socket().deliver({ type: "resize_ack", cols: 80, rows: 24, timestamp: 1 });
    await vi.advanceTimersByTimeAsync(20_000);
    expect(setup.socket().of("resize")).toHaveLength(2);
  });

  it("is sent again if it changed while attaching", async () => {
    const setup = rig();
    setup.client.connect();
    await settle();
    setup.socket().open();
    setup.client.resize(70, 20);
    expect(setup.socket().of("resize")).toHaveLength(0);
    setup.socket().deliver(attached());
    expect(setup.socket().of("resize")).toEqual([{ type: "resize", cols: 70, rows: 20, seq: 2 }]);
  });

  it("is reported when in force", async () => {
    const setup = await connected();
    const sizes: unknown[] = [];
    setup.client.on("size", (size) => sizes.push(size));
    setup.socket().deliver({ type: "resize_ack", cols: 60, rows: 20, timestamp: 1 });
    expect(sizes).toEqual([{ cols: 60, rows: 20 }]);
  });
});
