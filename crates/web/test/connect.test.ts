// @vitest-environment jsdom
// Connecting: the URL, attach, configuration errors, close codes, and the cause of a refused handshake.
import { describe, expect, it, vi } from "vitest";
import { attached, connected, EPOCH, output, reconnected, rig, settle, setUpFakeSockets } from "./support/client";
import { FakeSocket } from "./support/socket";

setUpFakeSockets();

describe("connecting", () => {
  it("puts session and token into the URL", async () => {
    const { socket, client } = await connected();
    expect(socket().url).toBe("wss://host/prod?sessionId=s1&token=secret-token");
    expect(client.diagnostics.url).not.toContain("secret-token");
  });

  it("sends the token as a subprotocol on request", async () => {
    const { socket } = await connected({ tokenIn: "protocol" });
    expect(socket().url).toBe("wss://host/prod?sessionId=s1");
    expect(socket().protocols).toEqual(["shellbridge.v1", "bearer.secret-token"]);
  });

  it("is connected once attached, not before", async () => {
    const setup = rig();
    setup.client.connect();
    await settle();
    expect(setup.client.status.state).toBe("connecting");
    setup.socket().open();
    expect(setup.client.status.state).toBe("connecting");
    setup.socket().deliver(attached({ readOnly: true }));
    expect(setup.client.status).toMatchObject({ state: "connected", readOnly: true });
  });

  it("repeats attach every 2 s, with a new seq and the current offset", async () => {
    const setup = rig();
    setup.client.connect();
    await settle();
    setup.socket().open();
    setup.socket().deliver(output(0, "early"));
    await vi.advanceTimersByTimeAsync(4_000);
    const [first, second, third] = setup.socket().of("attach");
    expect(first).toMatchObject({ seq: 1, cols: 80, rows: 24 });
    expect(first).not.toHaveProperty("outputOffset");
    expect(second).toMatchObject({ seq: 2, epoch: EPOCH, outputOffset: 5 });
    expect(third).toMatchObject({ seq: 3 });
    setup.socket().deliver(attached());
    await vi.advanceTimersByTimeAsync(10_000);
    expect(setup.socket().of("attach")).toHaveLength(3);
  });

  it("times a handshake out after 20 s", async () => {
    const setup = rig();
    setup.client.connect();
    await vi.advanceTimersByTimeAsync(19_999);
    expect(setup.errors).toEqual([]);
    await vi.advanceTimersByTimeAsync(1);
    expect(setup.errors[0]).toMatchObject({ code: "CONNECTION_TIMEOUT", closeCode: 1008 });
    expect(setup.client.status.state).toBe("reconnecting");
  });

  it.each([
    ["MISSING_AUTH", { token: undefined }],
    ["AWS_APP_RUNNER_ERROR", { url: "wss://abc.eu-west-1.awsapprunner.com/ws" }],
    ["WEBSOCKET_CREATION_FAILED", { url: "not a url" }],
  ])("fails with %s without an attempt", async (code, options) => {
    const setup = rig(options);
    setup.client.connect();
    await settle();
    expect(setup.client.status).toMatchObject({ state: "failed", error: { code, retryable: false } });
    expect(FakeSocket.all).toHaveLength(0);
  });

  it("fails with MIXED_CONTENT on an https:// page, except to localhost", async () => {
    vi.stubGlobal("location", new URL("https://page.example/"));
    const setup = rig({ url: "ws://host/prod" });
    setup.client.connect();
    await settle();
    expect(setup.client.status.error?.code).toBe("MIXED_CONTENT");
    const local = rig({ url: "ws://127.0.0.1:3002/prod" });
    local.client.connect();
    await settle();
    expect(FakeSocket.all).toHaveLength(1);
    vi.unstubAllGlobals();
  });

  it("fails with WEBSOCKET_CREATION_FAILED if the constructor throws", async () => {
    const Throwing = class {
      constructor() {
        throw new DOMException("bad scheme", "SyntaxError");
      }
    } as unknown as typeof WebSocket;
    const setup = rig({ WebSocket: Throwing, url: "gopher://host/" });
    setup.client.connect();
    await settle();
    expect(setup.client.status.error?.code).toBe("WEBSOCKET_CREATION_FAILED");
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
    const setup = await connected();
    await vi.advanceTimersByTimeAsync(1_000);
    setup.socket().cut(code, "why");
    expect(setup.client.status.state).toBe("reconnecting");
    expect(setup.errors[0]?.code).toBe(expected);
    if (expected) expect(setup.errors[0]).toMatchObject({ closeCode: code, retryable: true });
    await reconnected(setup);
    expect(setup.client.status.state).toBe("connected");
    expect(setup.client.diagnostics.reconnects).toBe(1);
  });

  it("4000 ends the client: the session no longer exists", async () => {
    const setup = await connected();
    setup.socket().cut(4000);
    expect(setup.client.status).toMatchObject({ state: "failed", error: { code: "SESSION_INVALID" } });
    await vi.advanceTimersByTimeAsync(3_600_000);
    expect(FakeSocket.all).toHaveLength(1);
  });

  it("close() leaves nothing behind", async () => {
    const setup = await connected();
    setup.client.close();
    expect(setup.socket().closedWith).toBe(1000);
    expect(setup.socket().of("detach")).toHaveLength(1);
    expect(setup.client.status.state).toBe("closed");
    expect(vi.getTimerCount()).toBe(0);
  });
});

describe("diagnosis of a refused handshake", () => {
  const refused = async (answer: object | Error, more: Parameters<typeof rig>[0] = {}) => {
    const requests: [string, RequestInit | undefined][] = [];
    const fetcher = (async (url: URL, init?: RequestInit) => {
      requests.push([String(url), init]);
      if (answer instanceof Error) throw answer;
      return { json: async () => answer };
    }) as unknown as typeof fetch;
    const setup = rig({ diagnosticsUrl: "https://api.example/api/diagnostics/websocket", fetch: fetcher, ...more });
    setup.client.connect();
    await settle();
    setup.socket().cut(1006);
    await settle();
    return { ...setup, requests };
  };

  it("sends the token in a header", async () => {
    const { requests } = await refused({ ok: true });
    expect(requests[0]?.[0]).toBe("https://api.example/api/diagnostics/websocket?sessionId=s1");
    expect(requests[0]?.[1]?.headers).toEqual({ authorization: "Bearer secret-token" });
    expect(requests[0]?.[1]?.credentials).toBe("omit");
  });

  it.each(["SESSION_INVALID", "SESSION_EXPIRED", "FORBIDDEN", "ORIGIN_NOT_ALLOWED", "TOKEN_EXPIRED", "MISSING_AUTH"])(
    "%s ends the client",
    async (code) => {
      const setup = await refused({ ok: false, code, message: "because" });
      expect(setup.client.status).toMatchObject({ state: "failed", error: { code, message: "because" } });
    },
  );

  it.each([
    ["a healthy session", { ok: true }, "HANDSHAKE_REFUSED"],
    ["a transient error", { ok: false, code: "BACKEND_UNAVAILABLE" }, "BACKEND_UNAVAILABLE"],
    ["an unknown response", { hello: 1 }, "CONNECTION_FAILED"],
    ["an unreachable endpoint", new TypeError("fetch failed"), "CONNECTION_FAILED"],
  ])("%s leads to a retry", async (_name, answer, code) => {
    const setup = await refused(answer);
    expect(setup.client.status).toMatchObject({ state: "reconnecting", error: { code } });
    expect(setup.errors.map((error) => error.code)).toEqual([code]);
  });

  it("regression_wrong_stage: suggests the URL of the server", async () => {
    const setup = await refused({ ok: true, webSocketUrl: "wss://host/prod" }, { url: "wss://host", maxRetries: 1 });
    const text =
      "The backend knows this session, but no handshake at wss://host has succeeded. " +
      "Is the stage missing (wss://HOST/STAGE)? The server's URL is wss://host/prod.";
    expect(setup.client.status.error?.message).toBe(text);
    await vi.advanceTimersByTimeAsync(250);
    setup.socket().cut(1006);
    await settle();
    expect(setup.client.status.error).toMatchObject({
      code: "MAX_RETRIES_EXCEEDED",
      message: expect.stringContaining(text),
    });
  });

  it("mentions no stage if the URL is that of the server", async () => {
    const setup = await refused({ ok: true, webSocketUrl: "wss://host/prod" });
    expect(setup.client.status.error).toMatchObject({ code: "HANDSHAKE_REFUSED" });
    expect(setup.client.status.error?.message).not.toContain("stage");
  });

  it("blames no URL that has worked before", async () => {
    const fetcher = (async () => ({ json: async () => ({ ok: true }) })) as unknown as typeof fetch;
    const setup = await connected({ diagnosticsUrl: "https://x.example/", fetch: fetcher });
    setup.socket().cut(1001);
    await vi.advanceTimersByTimeAsync(250);
    setup.socket().cut(1006);
    await settle();
    expect(setup.errors.map(({ code }) => code)).toEqual(["CONNECTION_FAILED"]);
  });

  it("TOKEN_EXPIRED leads to a retry with a new token", async () => {
    const setup = await refused({ ok: false, code: "TOKEN_EXPIRED" }, { refreshToken: async () => "fresh" });
    await vi.advanceTimersByTimeAsync(250);
    expect(FakeSocket.all).toHaveLength(2);
    expect(setup.socket().url).toContain("token=fresh");
  });

  it("repeated TOKEN_EXPIRED is given up", async () => {
    let count = 0;
    const setup = await refused({ ok: false, code: "TOKEN_EXPIRED" }, { refreshToken: async () => `fresh-${count++}` });
    for (let i = 0; i < 12; i++) {
      await vi.advanceTimersByTimeAsync(30_000);
      setup.socket().cut(1006);
      await settle();
    }
    expect(setup.client.status.error?.code).toBe("MAX_RETRIES_EXCEEDED");
    expect(FakeSocket.all.length).toBeLessThan(13);
  });

  it("is skipped when an open connection breaks", async () => {
    const setup = await connected({ diagnosticsUrl: "https://x.example/", fetch: vi.fn() });
    setup.socket().cut(1006);
    await settle();
    expect(setup.client.status.state).toBe("reconnecting");
  });

  it("does not outlive close()", async () => {
    const hanging = ((_url: URL, init: RequestInit) =>
      new Promise((_, reject) =>
        init.signal?.addEventListener("abort", () => reject(new Error("aborted"))),
      )) as typeof fetch;
    const setup = rig({ diagnosticsUrl: "https://x.example/", fetch: hanging });
    setup.client.connect();
    await settle();
    setup.socket().cut(1006);
    setup.client.close();
    await settle();
    expect(vi.getTimerCount()).toBe(0);
  });
});
