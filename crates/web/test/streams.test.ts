// @vitest-environment jsdom
// Both byte streams over a network that reorders, repeats, loses and cuts: the screen is the output, the shell gets
// what was typed, each byte once.
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { rig } from "./support/client";
import { type Faults, ModelServer, seeded } from "./support/model";
import { FakeSocket } from "./support/socket";

beforeEach(() => {
  vi.useFakeTimers();
  FakeSocket.reset();
  sessionStorage.clear();
});
afterEach(() => {
  vi.useRealTimers();
});

const SCHEDULES: [string, Faults][] = [
  ["a perfect network", { reorder: 0, repeat: 0, drop: 0, cutEvery: 0 }],
  ["reordering", { reorder: 0.5, repeat: 0, drop: 0, cutEvery: 0 }],
  ["repetition", { reorder: 0, repeat: 0.5, drop: 0, cutEvery: 0 }],
  ["loss", { reorder: 0, repeat: 0, drop: 0.3, cutEvery: 0 }],
  ["a cut every second", { reorder: 0, repeat: 0, drop: 0, cutEvery: 1000 }],
  ["everything at once", { reorder: 0.3, repeat: 0.3, drop: 0.2, cutEvery: 1500 }],
];

async function run(seed: number, faults: Faults, buffer: number) {
  const random = seeded(seed);
  const server = new ModelServer(random, { ...faults });
  server.buffer = buffer;
  const { client, screen, errors } = rig({ random, maxRetries: 1000 });
  let typed = "";
  client.connect();
  for (let step = 0; step < 60; step++) {
    await vi.advanceTimersByTimeAsync(random() * 200);
    const text = "äöü€😀 abc\r\n".slice(0, 1 + Math.floor(random() * 10));
    if (random() < 0.7) server.print(text.repeat(1 + Math.floor(random() * (random() < 0.1 ? 4000 : 20))));
    if (random() < 0.6) {
      const keys = `${step}:${"k".repeat(Math.floor(random() * (random() < 0.05 ? 90_000 : 8)))};`;
      if (client.input(keys)) typed += keys;
    }
  }
  server.calm();
  await vi.advanceTimersByTimeAsync(120_000);
  const result = {
    screen: screen.text,
    output: server.output,
    shell: server.typed,
    typed,
    errors,
    resets: screen.resets,
  };
  client.close();
  server.stop();
  expect(vi.getTimerCount()).toBe(0);
  return result;
}

describe.each(SCHEDULES)("over %s", (_name, faults) => {
  it.each(Array.from({ length: 12 }, (_, i) => i + 1))(
    "nothing is lost, doubled or out of order (seed %i)",
    async (seed) => {
      const { screen, output, shell, typed } = await run(seed, faults, 1024 * 1024);
      expect(screen).toBe(output);
      expect(shell).toBe(typed);
    },
  );

  it.each(Array.from({ length: 6 }, (_, i) => i + 101))(
    "a small buffer is made up for by snapshots (seed %i)",
    async (seed) => {
      const { screen, output, shell, typed } = await run(seed, faults, 2_000);
      expect(screen).toBe(output);
      expect(shell).toBe(typed);
    },
  );
});
