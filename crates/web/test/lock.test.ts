// @vitest-environment jsdom
// The client's name: kept across reloads, never shared by two tabs.
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { claimName, keepName, randomId, takeName } from "../src/client/lock";
import { Locks } from "./support/locks";

let locks: Locks;

beforeEach(() => {
  locks = new Locks();
  Object.defineProperty(navigator, "locks", { value: locks, configurable: true });
  sessionStorage.clear();
});
afterEach(() => {
  Reflect.deleteProperty(navigator, "locks");
});

it("is random, of the contract's alphabet and length", () => {
  const names = new Set(Array.from({ length: 200 }, randomId));
  expect(names.size).toBe(200);
  for (const name of names) expect(name).toMatch(/^[A-Za-z0-9_-]{16,64}$/);
});

it("is the same after a reload, which frees the lock", async () => {
  const before = await claimName("s");
  keepName("s", before);
  before.release();
  await Promise.resolve();
  expect((await claimName("s")).id).toBe(before.id);
});

it("is another in a duplicated tab, and each keeps its own", async () => {
  const first = await claimName("s");
  keepName("s", first);
  const copy = await claimName("s"); // the same sessionStorage, while the first lives
  expect(copy.id).not.toBe(first.id);
});

it("is one per session", async () => {
  const [a, b] = [await claimName("a"), await claimName("b")];
  expect(a.id).not.toBe(b.id);
});

it("without Web Locks is new with every page, since a copy could not be told", async () => {
  Object.defineProperty(navigator, "locks", { value: undefined, configurable: true });
  const before = await claimName("s");
  keepName("s", before);
  expect((await claimName("s")).id).not.toBe(before.id);
});

it("does without what the browser denies", async () => {
  vi.spyOn(locks, "request").mockRejectedValue(new DOMException("no", "SecurityError"));
  vi.spyOn(Storage.prototype, "setItem").mockImplementation(() => {
    throw new DOMException("full", "QuotaExceededError");
  });
  const name = await takeName();
  keepName("s", name);
  expect(name.id).toMatch(/^[\w-]{16,64}$/);
});

it("when taken anew leaves the old one free", async () => {
  const old = await claimName("s");
  const fresh = await takeName();
  old.release();
  await new Promise((done) => setTimeout(done));
  expect(locks.held).toEqual(new Set([`shellbridge.${fresh.id}`]));
});
