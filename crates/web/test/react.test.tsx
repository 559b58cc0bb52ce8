// @vitest-environment jsdom
// The React hooks: one connection under StrictMode, stable across renders, safe on a server.
import { act, StrictMode } from "react";
import { createRoot, type Root } from "react-dom/client";
import { renderToString } from "react-dom/server";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { type TerminalHook, type UseTerminalOptions, useTerminal, useTerminalApiGateway } from "../src/react";
import { attached, jwt, settle } from "./support/client";
import { FakeSocket } from "./support/socket";

(globalThis as { IS_REACT_ACT_ENVIRONMENT?: boolean }).IS_REACT_ACT_ENVIRONMENT = true;

let root: Root;
let hook: TerminalHook;
let renders = 0;

const BASE: UseTerminalOptions = { url: "wss://host/prod", token: "t", sessionId: "s1", WebSocket: FakeSocket.Class };

function Probe(options: UseTerminalOptions) {
  hook = useTerminalApiGateway(options);
  renders++;
  return <p>{hook.state}</p>;
}

function Plain() {
  hook = useTerminal("wss://host/prod?x=1&sessionId=s9&token=abc", { WebSocket: FakeSocket.Class });
  return null;
}

beforeEach(() => {
  vi.useFakeTimers();
  FakeSocket.reset();
  sessionStorage.clear();
  renders = 0;
  root = createRoot(document.createElement("div"));
});
afterEach(async () => {
  await act(async () => root.unmount());
  await vi.advanceTimersByTimeAsync(1_000); // for React's scheduler; a client's timers would renew themselves
  expect(vi.getTimerCount()).toBe(0);
  vi.useRealTimers();
});

const show = async (element: React.ReactNode) => {
  await act(async () => root.render(element));
  await act(settle);
};
const live = () => FakeSocket.all.filter((socket) => socket.readyState < 2);
const connect = () =>
  act(async () => {
    FakeSocket.last.open();
    FakeSocket.last.deliver(attached());
    await settle();
  });

describe("useTerminalApiGateway", () => {
  it("connects on mount and closes on unmount", async () => {
    await show(<Probe {...BASE} />);
    expect(hook).toMatchObject({ isConnected: false, isConnecting: true, error: null });
    await connect();
    expect(hook).toMatchObject({ isConnected: true, isConnecting: false });
    await show(null);
    expect(live()).toHaveLength(0);
  });

  it("opens one connection under StrictMode", async () => {
    await show(
      <StrictMode>
        <Probe {...BASE} />
      </StrictMode>,
    );
    expect(FakeSocket.all).toHaveLength(1);
    await connect();
    expect(hook.isConnected).toBe(true);
    expect(FakeSocket.all).toHaveLength(1);
  });

  it("keeps the connection when callbacks change on each render", async () => {
    const seen: string[] = [];
    const parent = (count: number) => <Probe {...BASE} onMessage={(frame) => seen.push(`${count}:${frame.type}`)} />;
    await show(parent(0));
    await connect();
    await show(parent(1));
    await act(async () => FakeSocket.last.deliver({ type: "clear_ack", timestamp: 1 }));
    expect(FakeSocket.all).toHaveLength(1);
    expect(seen).toEqual(["0:attached", "1:clear_ack"]);
  });

  it("does not render for every frame", async () => {
    await show(<Probe {...BASE} />);
    await connect();
    const before = renders;
    await act(async () => {
      for (let i = 0; i < 50; i++) FakeSocket.last.deliver({ type: "clear_ack", timestamp: i });
    });
    expect(renders).toBe(before);
  });

  it("calls back on connect, disconnect and error", async () => {
    const onConnect = vi.fn();
    const onDisconnect = vi.fn();
    const onError = vi.fn();
    await show(<Probe {...BASE} onConnect={onConnect} onDisconnect={onDisconnect} onError={onError} />);
    await connect();
    expect(onConnect).toHaveBeenCalledOnce();
    await act(async () => FakeSocket.last.cut(4000));
    expect(onDisconnect).toHaveBeenCalledOnce();
    expect(onError.mock.calls[0]?.[0]).toMatchObject({ code: "SESSION_INVALID" });
    expect(hook.error).toMatchObject({ code: "SESSION_INVALID" });
  });

  it("regression_silent_backend: reports since when the backend is silent", async () => {
    await show(<Probe {...BASE} />);
    await connect();
    const dead = { type: "error", code: "BACKEND_UNAVAILABLE", message: "no", retryable: true } as const;
    await act(async () => FakeSocket.last.deliver(dead));
    expect(hook).toMatchObject({ isConnected: true, error: { code: "BACKEND_UNAVAILABLE" } });
    expect(hook.diagnostics?.unansweredSince).toBe(Date.now());
    await act(async () => FakeSocket.last.deliver({ type: "pong", timestamp: 1 }));
    expect(hook).toMatchObject({ isConnected: true, error: null });
    expect(hook.diagnostics?.unansweredSince).toBeUndefined();
  });

  it("types, resizes, runs commands, disconnects and reconnects", async () => {
    await show(<Probe {...BASE} />);
    await connect();
    hook.sendInput("ls\r");
    hook.resizeTerminal(100, 30);
    const answer = hook.executeCommand("true", { id: "a" });
    expect(FakeSocket.last.sent.map(({ type }) => type)).toEqual(
      expect.arrayContaining(["input", "resize", "command"]),
    );
    FakeSocket.last.deliver({ type: "command_result", id: "a", result: "", exitCode: 0, timestamp: 1, durationMs: 1 });
    expect((await answer).exitCode).toBe(0);
    await act(async () => hook.disconnect());
    expect(hook.state).toBe("closed");
    await act(async () => {
      hook.reconnect();
      await settle();
    });
    await connect();
    expect(hook.isConnected).toBe(true);
  });

  it("returns stable functions", async () => {
    await show(<Probe {...BASE} />);
    const { executeCommand, sendInput, resizeTerminal, reconnect, disconnect } = hook;
    await connect();
    expect(hook).toMatchObject({ executeCommand, sendInput, resizeTerminal, reconnect, disconnect });
  });

  it("reconnects for a new session, not for a new token", async () => {
    await show(<Probe {...BASE} />);
    await connect();
    const fresh = jwt({ sub: "u" });
    await show(<Probe {...BASE} token={fresh} />);
    expect(FakeSocket.all).toHaveLength(1);
    expect(hook.client?.token).toBe(fresh);
    await show(<Probe {...BASE} token={fresh} sessionId="s2" />);
    expect(live()).toHaveLength(1);
    expect(FakeSocket.last.url).toContain("sessionId=s2");
  });

  it("waits for a token", async () => {
    await show(<Probe {...BASE} token={undefined} />);
    expect(hook).toMatchObject({ state: "idle", client: null, diagnostics: null });
    await expect(hook.executeCommand("x")).rejects.toMatchObject({ code: "CLOSED" });
    expect(hook.sendInput("x")).toBe(false);
    await show(<Probe {...BASE} />);
    expect(FakeSocket.all).toHaveLength(1);
  });

  it("renders on a server", () => {
    expect(renderToString(<Probe {...BASE} />)).toBe("<p>idle</p>");
    expect(FakeSocket.all).toHaveLength(0);
  });
});

describe("useTerminal", () => {
  it("parses a complete URL", async () => {
    await show(<Plain />);
    expect(FakeSocket.last.url).toBe("wss://host/prod?x=1&sessionId=s9&token=abc");
  });
});
