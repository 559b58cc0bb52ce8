// A client on a scripted socket, with a terminal that keeps its output.
import { afterEach, beforeEach, expect, vi } from "vitest";
import { type ClientOptions, TerminalClient, type TerminalError } from "../../src/client";
import type { ErrorCode, ServerFrame } from "../../src/protocol.gen";
import { FakeSocket } from "./socket";

export const EPOCH = 1_700_000_000_000;

/** An unsigned JWT with these claims. */
export function jwt(claims: object): string {
  return `h.${btoa(JSON.stringify(claims)).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "")}.s`;
}

export class Screen {
  text = "";
  resets = 0;
  /** Confirmations held back while `slow`. */
  waiting: (() => void)[] = [];
  slow = false;
  #decoder = new TextDecoder();

  write = (bytes: Uint8Array, done: () => void): void => {
    this.text += this.#decoder.decode(bytes, { stream: true });
    this.#confirm(done);
  };
  reset = (_cols: number, _rows: number, parts: Uint8Array[], done: () => void): void => {
    this.resets++;
    this.#decoder = new TextDecoder();
    this.text = parts.map((part) => this.#decoder.decode(part, { stream: true })).join("");
    this.#confirm(done);
  };
  confirm(): void {
    for (const done of this.waiting.splice(0)) done();
  }
  #confirm(done: () => void): void {
    if (this.slow) this.waiting.push(done);
    else done();
  }
}

export interface Rig {
  client: TerminalClient;
  screen: Screen;
  errors: TerminalError[];
  states: string[];
  socket(): FakeSocket;
}

const clients: TerminalClient[] = [];

/** Sets up fake timers and sockets for each test of a file. Afterwards closes its clients, which must leave no timer. */
export function setUpFakeSockets(): void {
  beforeEach(() => {
    vi.useFakeTimers();
    FakeSocket.reset();
    sessionStorage.clear();
    clients.length = 0;
  });
  afterEach(() => {
    for (const client of clients) client.close();
    expect(vi.getTimerCount()).toBe(0);
    vi.useRealTimers();
  });
}

export function rig(options: Partial<ClientOptions> = {}): Rig {
  const client = new TerminalClient({
    url: "wss://host/prod",
    token: "secret-token",
    sessionId: "s1",
    WebSocket: FakeSocket.Class,
    random: () => 0.5,
    ...options,
  });
  clients.push(client);
  const screen = new Screen();
  const errors: TerminalError[] = [];
  const states: string[] = [];
  client.sink = screen;
  client.on("error", (error) => errors.push(error));
  client.on("status", ({ state }) => states.at(-1) !== state && states.push(state));
  return { client, screen, errors, states, socket: () => FakeSocket.last };
}

/** Runs the timers that are due, and every microtask. */
export const settle = () => vi.advanceTimersByTimeAsync(0);

export const attached = (more: Partial<Extract<ServerFrame, { type: "attached" }>> = {}): ServerFrame => ({
  type: "attached",
  epoch: EPOCH,
  outputOffset: 0,
  inputOffset: 0,
  cols: 80,
  rows: 24,
  readOnly: false,
  ...more,
});

export const output = (offset: number, data: string, inputOffset?: number): ServerFrame => ({
  type: "output",
  epoch: EPOCH,
  offset,
  data,
  ...(inputOffset !== undefined && { inputOffset }),
});

export const errorFrame = (
  code: ErrorCode,
  more: Partial<Extract<ServerFrame, { type: "error" }>> = {},
): ServerFrame => ({ type: "error", code, message: `about ${code}`, retryable: false, ...more });

/** Makes the sockets created so far answer pings. */
export function answerPings(setup: Rig): Rig {
  for (const socket of FakeSocket.all) {
    socket.onSend = (frame) =>
      frame.type === "ping" && socket.deliver({ type: "pong", timestamp: 1, echo: frame.timestamp });
  }
  return setup;
}

/** A client that is attached. */
export async function connected(options: Partial<ClientOptions> = {}): Promise<Rig> {
  const setup = rig(options);
  setup.client.connect();
  await settle();
  setup.socket().open();
  setup.socket().deliver(attached());
  return setup;
}

/** Lets the client reconnect after a cut, and attaches the new connection. */
export async function reconnected({ socket }: Rig, more: Parameters<typeof attached>[0] = {}): Promise<void> {
  await vi.advanceTimersByTimeAsync(30_000);
  socket().open();
  socket().deliver(attached(more));
}
