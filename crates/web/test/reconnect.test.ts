// @vitest-environment jsdom
// Staying connected: retries, liveness, planned reconnects, tokens.
import { describe, expect, it, vi } from "vitest";
import {
  answerPings,
  attached,
  connected,
  errorFrame,
  jwt,
  output,
  rig,
  settle,
  setUpFakeSockets,
} from "./support/client";
import { FakeSocket } from "./support/socket";

setUpFakeSockets();

describe("retries", () => {
  it("backs off from 250 ms to 30 s and gives up after ten attempts", async () => {
    const setup = rig({ random: () => 0.999_999 });
    setup.client.connect();
    await settle();
    const waits: number[] = [];
    for (let i = 0; i < 10; i++) {
      setup.socket().cut(1006);
      await settle();
      const { retryAt, state } = setup.client.status;
      expect(state).toBe("reconnecting");
      waits.push(Math.round((retryAt ?? 0) - Date.now()));
      await vi.advanceTimersByTimeAsync((retryAt ?? 0) - Date.now() + 1);
    }
    expect(waits).toEqual([250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
    setup.socket().cut(1006);
    await settle();
    expect(setup.client.status).toMatchObject({ state: "failed", error: { code: "MAX_RETRIES_EXCEEDED" } });
  });

  it.each(["online", "visible", "reconnect()"])("resets the count on %s", async (how) => {
    const setup = rig({ maxRetries: 0 });
    setup.client.connect();
    await settle();
    setup.socket().cut(1006);
    await settle();
    expect(setup.client.status.error?.code).toBe("MAX_RETRIES_EXCEEDED");
    if (how === "online") dispatchEvent(new Event("online"));
    else if (how === "visible") document.dispatchEvent(new Event("visibilitychange"));
    else setup.client.reconnect();
    await settle();
    expect(FakeSocket.all).toHaveLength(2);
  });

  it("stays failed after a permanent error", async () => {
    const setup = await connected();
    setup.socket().deliver(errorFrame("SESSION_EXPIRED"));
    dispatchEvent(new Event("online"));
    document.dispatchEvent(new Event("visibilitychange"));
    await settle();
    expect(FakeSocket.all).toHaveLength(1);
  });

  it("backs off from a server that drops connections at once", async () => {
    const setup = rig({ random: () => 0.999 });
    setup.client.connect();
    await settle();
    for (let i = 0; i < 5; i++) {
      setup.socket().open();
      setup.socket().deliver(attached());
      setup.socket().cut(1001);
      await vi.advanceTimersByTimeAsync((setup.client.status.retryAt ?? 0) - Date.now() + 1);
    }
    setup.socket().cut(1001);
    await settle();
    expect((setup.client.status.retryAt ?? 0) - Date.now()).toBeGreaterThan(5_000);
  });

  it("waits for the network without using attempts", async () => {
    const setup = await connected({ maxRetries: 0 });
    await vi.advanceTimersByTimeAsync(1_000);
    const online = vi.spyOn(navigator, "onLine", "get").mockReturnValue(false);
    setup.socket().cut(1006);
    await settle();
    expect(setup.client.status).toMatchObject({ state: "offline", error: { code: "OFFLINE" } });
    await vi.advanceTimersByTimeAsync(3_600_000);
    expect(FakeSocket.all).toHaveLength(1);
    online.mockReturnValue(true);
    dispatchEvent(new Event("online"));
    await settle();
    setup.socket().open();
    setup.socket().deliver(attached());
    expect(setup.client.status.state).toBe("connected");
  });
});

describe("liveness", () => {
  it("pings every 30 s with an ack, and measures the round trip", async () => {
    const setup = await connected();
    const first = setup.socket().of("ping")[0];
    await vi.advanceTimersByTimeAsync(40);
    setup.socket().deliver({ type: "pong", timestamp: 1, echo: first?.timestamp });
    expect(setup.client.diagnostics.roundTrip).toEqual({ last: 40, median: 40, p95: 40 });
    setup.socket().deliver(output(0, "abc"));
    await vi.advanceTimersByTimeAsync(30_000);
    expect(setup.socket().of("ping")).toHaveLength(2);
    expect(setup.socket().of("ping")[1]).toMatchObject({ outputOffset: 3 });
  });

  it("gives a connection up after two missed pongs", async () => {
    const setup = await connected();
    await vi.advanceTimersByTimeAsync(30_000);
    expect(setup.client.status.state).toBe("connected");
    await vi.advanceTimersByTimeAsync(35_000);
    expect(setup.errors[0]).toMatchObject({ code: "CONNECTION_FAILED", closeCode: 1006 });
    expect(FakeSocket.all.length).toBeGreaterThan(1);
  });

  it("pings every minute once idle for five, and every 30 s when active", async () => {
    const setup = answerPings(await connected());
    const pings = () => setup.socket().of("ping").length;
    const before = pings();
    await vi.advanceTimersByTimeAsync(5 * 60_000);
    const quiet = pings();
    expect(quiet - before).toBe(9);
    await vi.advanceTimersByTimeAsync(10 * 60_000);
    expect(pings() - quiet).toBe(10);
    setup.socket().deliver(output(0, "abc"));
    await vi.advanceTimersByTimeAsync(60_000);
    expect(pings() - quiet).toBe(12);
    expect(setup.client.status.state).toBe("connected");
  });

  it("gives an idle connection up within about two minutes", async () => {
    const setup = await connected();
    const pings = () => setup.socket().of("ping");
    for (let minute = 0; minute < 12; minute += 0.5) {
      setup.socket().deliver({ type: "pong", timestamp: 1, echo: pings().at(-1)?.timestamp });
      await vi.advanceTimersByTimeAsync(30_000);
    }
    expect(setup.client.status.state).toBe("connected");
    await vi.advanceTimersByTimeAsync(2 * 60_000 + 10_000);
    expect(setup.errors[0]).toMatchObject({ code: "CONNECTION_FAILED", closeCode: 1006 });
  });

  it("probes after a jump of the clock, and reconnects without a pong", async () => {
    const setup = await connected();
    setup.socket().deliver({ type: "pong", timestamp: 1, echo: setup.socket().of("ping")[0]?.timestamp });
    vi.setSystemTime(Date.now() + 3_600_000);
    await vi.advanceTimersByTimeAsync(5_000);
    expect(setup.socket().of("ping")).toHaveLength(2);
    await vi.advanceTimersByTimeAsync(5_000);
    expect(setup.client.status.state).toBe("reconnecting");
  });

  it("keeps a connection that answers the probe", async () => {
    const setup = await connected();
    vi.setSystemTime(Date.now() + 3_600_000);
    await vi.advanceTimersByTimeAsync(5_000);
    setup.socket().deliver({ type: "pong", timestamp: 1, echo: setup.socket().of("ping").at(-1)?.timestamp });
    await vi.advanceTimersByTimeAsync(20_000);
    expect(setup.client.status.state).toBe("connected");
    expect(FakeSocket.all).toHaveLength(1);
  });

  it.each(["online", "offline", "visible"])("probes the connection on %s", async (event) => {
    const setup = await connected();
    if (event === "visible") document.dispatchEvent(new Event("visibilitychange"));
    else dispatchEvent(new Event(event));
    expect(setup.socket().of("ping")).toHaveLength(2);
    await vi.advanceTimersByTimeAsync(5_000);
    expect(setup.client.status.state).toBe("reconnecting");
  });
});

describe("a planned reconnect", () => {
  /** Advances the clock until the client opens a second socket. */
  const untilPlanned = async () => {
    for (let t = 0; t < 2 * 3_600_000 && FakeSocket.all.length === 1; t += 10_000)
      await vi.advanceTimersByTimeAsync(10_000);
    expect(FakeSocket.all).toHaveLength(2);
  };

  it("opens the new connection before it closes the old one, within 2 h", async () => {
    const setup = answerPings(await connected());
    const [old] = FakeSocket.all as [FakeSocket];
    await untilPlanned();
    expect(FakeSocket.all).toHaveLength(2);
    expect(old.closedWith).toBeUndefined();
    old.deliver(output(0, "still "));
    setup.socket().open();
    setup.client.input("while moving");
    expect(old.of("input")).toHaveLength(0);
    old.deliver(errorFrame("REPLACED", { ref: "ack" })); // sent when the new connection attaches
    setup.socket().deliver(attached({ outputOffset: 6 }));
    expect(old.closedWith).toBe(1000);
    setup.socket().deliver(output(6, "here"));
    expect(setup.screen.text).toBe("still here");
    expect(setup.socket().of("input")[0]).toMatchObject({ offset: 0, data: "while moving" });
    expect(setup.states).toEqual(["connecting", "connected"]);
    expect(setup.client.diagnostics.reconnects).toBe(1);
  });

  it("is tried again after a failure, while the old connection serves", async () => {
    const setup = answerPings(await connected());
    const [old] = FakeSocket.all as [FakeSocket];
    await untilPlanned();
    setup.socket().cut(1006);
    old.deliver(output(0, "fine"));
    expect(setup.screen.text).toBe("fine");
    await vi.advanceTimersByTimeAsync(30_000);
    expect(FakeSocket.all).toHaveLength(3);
    expect(setup.states).toEqual(["connecting", "connected"]);
  });

  it("takes over if the old connection dies first", async () => {
    const setup = answerPings(await connected());
    const [old] = FakeSocket.all as [FakeSocket];
    await untilPlanned();
    old.cut(1001);
    setup.socket().open();
    setup.socket().deliver(attached());
    expect(setup.client.status.state).toBe("connected");
    expect(FakeSocket.all).toHaveLength(2);
  });
});

describe("tokens", () => {
  const at = (seconds: number) => jwt({ exp: Math.floor(Date.now() / 1000) + seconds, sessionId: "from-token" });

  it("may name the session", async () => {
    const setup = await connected({ token: at(3600), sessionId: undefined });
    expect(setup.socket().url).toContain("sessionId=from-token");
  });

  it("are renewed before the first attempt if expired", async () => {
    const fresh = at(3600);
    const setup = rig({ token: at(-1), refreshToken: async () => fresh });
    setup.client.connect();
    await settle();
    expect(setup.socket().url).toContain(encodeURIComponent(fresh));
  });

  it("are renewed before they expire, without an interruption", async () => {
    const fresh = at(7200);
    const setup = answerPings(await connected({ token: at(120), refreshToken: async () => fresh }));
    await vi.advanceTimersByTimeAsync(91_000);
    expect(FakeSocket.all).toHaveLength(2);
    expect(setup.socket().url).toContain(encodeURIComponent(fresh));
    setup.socket().open();
    setup.socket().deliver(attached());
    expect(FakeSocket.all[0]?.closedWith).toBe(1000);
    expect(setup.states).toEqual(["connecting", "connected"]);
  });

  it("are renewed on TOKEN_EXPIRED, with an immediate reconnect", async () => {
    const fresh = at(7200);
    const setup = await connected({ token: at(3600), refreshToken: async () => fresh });
    setup.socket().deliver(errorFrame("TOKEN_EXPIRED"));
    setup.socket().cut(1000);
    await settle();
    setup.socket().open();
    setup.socket().deliver(attached());
    expect(setup.client.status.state).toBe("connected");
    expect(setup.client.token).toBe(fresh);
  });

  it("regression_shared_refresh: two reasons cause one request", async () => {
    const fresh = at(7200);
    let issue = (_token: string) => {};
    const refreshToken = vi.fn(() => new Promise<string>((resolve) => (issue = resolve)));
    const setup = answerPings(await connected({ token: at(60), refreshToken }));
    await vi.advanceTimersByTimeAsync(31_000); // the renewal is under way
    setup.socket().deliver(errorFrame("TOKEN_EXPIRED"));
    await settle();
    expect(refreshToken).toHaveBeenCalledOnce();
    issue(fresh);
    await settle();
    expect(FakeSocket.all).toHaveLength(2);
    expect(setup.socket().url).toContain(encodeURIComponent(fresh));
    setup.socket().open();
    setup.socket().deliver(attached());
    expect(setup.client.status.state).toBe("connected");
  });

  it("end the client if they cannot be renewed", async () => {
    const setup = await connected({ token: at(3600), refreshToken: () => Promise.reject(new Error("no")) });
    setup.socket().deliver(errorFrame("TOKEN_EXPIRED"));
    await settle();
    expect(setup.client.status).toMatchObject({ state: "failed", error: { code: "TOKEN_EXPIRED" } });
  });

  it("end the client if the refresh times out", async () => {
    const setup = await connected({ token: at(3600), refreshToken: () => new Promise(() => {}) });
    setup.socket().deliver(errorFrame("TOKEN_EXPIRED"));
    await vi.advanceTimersByTimeAsync(8_000);
    expect(setup.client.status.state).toBe("failed");
  });
});
