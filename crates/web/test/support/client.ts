// A client on a scripted socket, with a terminal that keeps what it is given.
import { vi } from "vitest";
import { type ClientOptions, TerminalClient, type TerminalError } from "../../src/client";
import type { ServerFrame } from "../../src/protocol.gen";
import { FakeSocket } from "./socket";

export const EPOCH = 1_700_000_000_000;

/** `{exp, sessionId}` as a JWT that nobody verifies. */
export function jwt(claims: object): string {
  return `h.${btoa(JSON.stringify(claims)).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "")}.s`;
}

export class Screen {
  text = "";
  resets = 0;
  /** Confirmations not given yet, while `slow`. */
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

export function rig(options: Partial<ClientOptions> = {}): Rig {
  const client = new TerminalClient({
    url: "wss://host/prod",
    token: "secret-token",
    sessionId: "s1",
    WebSocket: FakeSocket.Class,
    random: () => 0.5,
    ...options,
  });
  const screen = new Screen();
  const errors: TerminalError[] = [];
  const states: string[] = [];
  client.sink = screen;
  client.on("error", (error) => errors.push(error));
  client.on("status", ({ state }) => states.at(-1) !== state && states.push(state));
  return { client, screen, errors, states, socket: () => FakeSocket.last };
}

/** Lets what was awaited happen. */
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

/** Up to `attached`. */
export async function connected(options: Partial<ClientOptions> = {}): Promise<Rig> {
  const made = rig(options);
  made.client.connect();
  await settle();
  made.socket().open();
  made.socket().say(attached());
  return made;
}

/** After a cut: the next socket, open and attached. */
export async function reconnected({ socket }: Rig, more: Parameters<typeof attached>[0] = {}): Promise<void> {
  await vi.advanceTimersByTimeAsync(30_000);
  socket().open();
  socket().say(attached(more));
}
