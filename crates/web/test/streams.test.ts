// @vitest-environment jsdom
// The client library against the backend's session state machine, over a network that reorders, repeats and drops frames
// and cuts connections, with page reloads. The screen must show the output, and the shell must read the input, each byte
// once and in order.
import { afterEach, beforeEach, describe, expect, it, onTestFinished, vi } from "vitest";
import { decodePayload } from "../src/client/bytes";
import { type Rig, rig } from "./support/client";
import { Locks } from "./support/locks";
import { rows } from "./support/rows";
import { type Faults, Server, seeded } from "./support/server";
import type { Settings } from "./support/session";
import { FakeSocket } from "./support/socket";

beforeEach(() => {
  vi.useFakeTimers();
  FakeSocket.reset();
  sessionStorage.clear();
  Object.defineProperty(navigator, "locks", { value: new Locks(), configurable: true });
});
afterEach(() => {
  vi.useRealTimers();
  Reflect.deleteProperty(navigator, "locks");
});

interface Schedule extends Faults {
  /** Share of steps that reload the page. */
  reload: number;
}

const CALM: Schedule = { reorder: 0, repeat: 0, drop: 0, cutEvery: 0, reload: 0 };
const SCHEDULES: [string, Schedule][] = [
  ["a perfect network", CALM],
  ["reordering", { ...CALM, reorder: 0.5 }],
  ["repetition", { ...CALM, repeat: 0.5 }],
  ["loss", { ...CALM, drop: 0.3 }],
  ["a cut every second", { ...CALM, cutEvery: 1000 }],
  ["reloads", { ...CALM, reload: 0.1 }],
  ["everything at once", { reorder: 0.3, repeat: 0.3, drop: 0.2, cutEvery: 1500, reload: 0.05 }],
];

/** The backend's defaults; every other seed uses the smallest window. */
const LARGE: Settings = { outputBuffer: 1024 * 1024, outputWindow: 256 * 1024, resumeGrace: 60_000 };
const NARROW: Settings = { ...LARGE, outputWindow: 32_768 };
/** The smallest settings that the backend accepts: it does not wait for a client that is slow or gone. */
const SMALL: Settings = { outputBuffer: 32_768, outputWindow: 32_768, resumeGrace: 0 };

interface Page extends Rig {
  typed: string;
  /** Exit codes, each with whether the screen showed all output at that time. */
  exits: [number, boolean][];
  /** Output frames without new bytes. */
  repeats: number;
}

/** Input that the shell must have read, by client id: all of `whole`, and a prefix of `rest`. */
type Expected = Map<string, { whole: string; rest: string }>;

async function run(seed: number, schedule: Schedule, settings: Settings) {
  const random = seeded(seed);
  const faults = { ...schedule };
  const server = new Server(random, faults, settings);
  FakeSocket.onCreate = server.accept;
  const expected: Expected = new Map();

  const open = (): Page => {
    const page = { ...rig({ random, maxRetries: 1000 }), typed: "", exits: [] as Page["exits"], repeats: 0 };
    let next = 0;
    page.client.on("frame", (frame) => {
      if (frame.type !== "output") return;
      const end = frame.offset + decodePayload(frame).length;
      if (end <= next) page.repeats++;
      next = end;
    });
    page.client.on("exit", ({ exitCode }) => page.exits.push([exitCode, page.screen.text === server.output]));
    page.client.connect();
    return page;
  };
  const leave = ({ client, typed }: Page, complete: boolean) => {
    const { clientId } = client.diagnostics;
    if (!clientId) return; // it never connected, so its input is lost
    const whole = expected.get(clientId)?.whole ?? "";
    expected.set(clientId, complete ? { whole: whole + typed, rest: "" } : { whole, rest: typed });
  };
  if (settings === SMALL) {
    server.print("before the first client\r\n".repeat(2000));
    await vi.advanceTimersByTimeAsync(1000);
  }
  let page = open();
  onTestFinished(() => page.client.close()); // also after a failure, so that its listeners do not reach the next test
  const reload = async () => {
    dispatchEvent(new Event("pagehide"));
    leave(page, sessionStorage.length > 0); // it saves its client id if all input is acknowledged
    for (const socket of FakeSocket.all) socket.vanish();
    page.client.close();
    await vi.advanceTimersByTimeAsync(0);
    page = open();
  };
  for (let step = 0; step < 60; step++) {
    await vi.advanceTimersByTimeAsync(random() * 200);
    if (schedule.reload > 0 && random() < schedule.reload) await reload();
    const text = "äöü€😀 abc\r\n".slice(0, 1 + Math.floor(random() * 12));
    if (random() < 0.7) server.print(text.repeat(1 + Math.floor(random() * (random() < 0.1 ? 4000 : 20))));
    if (random() < 0.6) {
      const keys = `${step}:${"k".repeat(Math.floor(random() * (random() < 0.05 ? 90_000 : 8)))};`;
      if (page.client.input(keys)) page.typed += keys;
    }
  }
  Object.assign(faults, CALM);
  await vi.advanceTimersByTimeAsync(120_000);
  leave(page, true);
  for (const clientId of new Set([...server.typists, ...expected.keys()])) {
    const { whole, rest } = expected.get(clientId) ?? { whole: "", rest: "" };
    const typed = server.typed(clientId);
    expect(typed.slice(0, whole.length)).toBe(whole);
    expect(rest.startsWith(typed.slice(whole.length))).toBe(true);
  }

  // The end of the output and the exit, under the same faults. Without RESUME_GRACE, clients learn of neither.
  Object.assign(faults, schedule);
  server.print("bye");
  if (settings.resumeGrace > 0) {
    server.exit(7);
    await vi.advanceTimersByTimeAsync(10_000);
  }
  Object.assign(faults, CALM);
  await vi.advanceTimersByTimeAsync(60_000);
  if (settings.resumeGrace > 0) {
    expect(page.exits).toEqual([[7, true]]);
    expect(server.over).toBe("ShellEnded");
    expect(page.client.status.state).toBe("ended");
  }
  expect(page.errors.filter(({ retryable }) => !retryable)).toEqual([]);
  if (schedule === CALM) {
    // A perfect network needs no repetition.
    expect(page.repeats).toBe(0);
    expect(FakeSocket.all.flatMap((socket) => socket.of("attach"))).toHaveLength(1);
    expect(page.client.diagnostics.retransmissions).toBe(0);
    expect(page.errors.map(({ code }) => code)).toEqual([]);
  }

  page.client.close();
  server.stop();
  expect(vi.getTimerCount()).toBe(0);
  return { screen: page.screen, output: server.output };
}

describe.each(SCHEDULES)("over %s", (_name, schedule) => {
  it.each(Array.from({ length: 12 }, (_, i) => i + 1))(
    "every byte arrives once and in order (seed %i)",
    async (seed) => {
      const { screen, output } = await run(seed, schedule, seed % 2 ? LARGE : NARROW);
      expect(screen.text).toBe(output);
      expect(screen.resets).toBe(0);
    },
  );

  it.each(Array.from({ length: 6 }, (_, i) => i + 101))(
    "snapshots make up for a small buffer (seed %i)",
    async (seed) => {
      const { screen, output } = await run(seed, schedule, SMALL);
      expect(screen.resets).toBeGreaterThan(0);
      const [shown, all] = [await rows(screen.text), await rows(output)];
      // A snapshot contains at least 1,000 lines of scrollback.
      expect(shown.length).toBeGreaterThanOrEqual(Math.min(1000, all.length));
      expect(shown).toEqual(all.slice(-shown.length));
    },
  );
});
