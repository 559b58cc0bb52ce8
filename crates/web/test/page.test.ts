// @vitest-environment jsdom
// Parts of the page that need no browser: the #fragment, recordings, number formats.
import { describe, expect, it } from "vitest";
import type { TerminalClient } from "../src/client";
import { Emitter } from "../src/client/emitter";
import type { ClientEvents } from "../src/client/types";
import { formatBytes, formatDuration } from "../src/page/dom";
import { Recorder } from "../src/page/recorder";
import { readFragment, writeFragment } from "../src/page/session";

describe("the #fragment", () => {
  const one = { sessionId: "a b", token: "x.y.z", url: "wss://h/prod?x=1" };
  const two = { sessionId: "s2", token: "t+2", url: "wss://h/prod" };

  it("round-trips sessions, tokens and URLs", () => {
    expect(readFragment(writeFragment([one, two], 1))).toEqual({ sessions: [one, two], active: 1 });
    expect(readFragment(writeFragment([one]))).toEqual({ sessions: [one], active: 0 });
  });

  it("of another kind contains no session", () => {
    for (const hash of ["", "#", "#section", "#sessionId=a", "#sessionId=a&token=t"]) {
      expect(readFragment(hash).sessions).toEqual([]);
    }
  });
});

class TestClient extends Emitter<ClientEvents> {
  send = this.emit.bind(this);
}

describe("a recording", () => {
  it("is asciicast v2 with output and resizes in order", () => {
    const client = new TestClient();
    const recorder = new Recorder(client as unknown as TerminalClient);
    client.send("size", { cols: 100, rows: 30 });
    const euro = new TextEncoder().encode("€");
    client.send("output", euro.subarray(0, 1));
    client.send("output", euro.subarray(1));
    client.send("size", { cols: 100, rows: 30 });
    client.send("size", { cols: 90, rows: 20 });
    client.send("output", new TextEncoder().encode("x\r\n"));
    const [header, ...events] = recorder
      .cast("t")
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(header).toMatchObject({ version: 2, width: 100, height: 30, title: "t" });
    expect(events.map(([, code, text]) => [code, text])).toEqual([
      ["o", "€"],
      ["r", "90x20"],
      ["o", "x\r\n"],
    ]);
    const times = events.map(([time]) => time);
    expect(times[0]).toBe(0);
    expect(times).toEqual([...times].sort((a, b) => a - b));
    recorder.dispose();
  });

  it("keeps a bounded amount of the newest output", () => {
    const client = new TestClient();
    const recorder = new Recorder(client as unknown as TerminalClient);
    const chunk = new Uint8Array(1024 * 1024).fill(120);
    for (let i = 0; i < 20; i++) client.send("output", chunk);
    client.send("output", new TextEncoder().encode("end"));
    const cast = recorder.cast("t");
    expect(cast.length).toBeLessThan(17 * 1024 * 1024);
    expect(cast.trimEnd().endsWith('"end"]')).toBe(true);
  });
});

it("formats durations and sizes", () => {
  expect([0, 61_000, 3_661_000].map(formatDuration)).toEqual(["0:00", "1:01", "1:01:01"]);
  expect([12, 2048, 3 * 1024 * 1024].map(formatBytes)).toEqual(["12 B", "2.0 KiB", "3.0 MiB"]);
});
