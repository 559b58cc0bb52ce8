// @vitest-environment jsdom
// The client id: kept across reloads, never shared by two tabs.
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { claimClientId, newClientId, randomId, saveClientId } from "../src/client/ids";
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

it("is random, within the contract's alphabet and length", () => {
  const ids = new Set(Array.from({ length: 200 }, randomId));
  expect(ids.size).toBe(200);
  for (const id of ids) expect(id).toMatch(/^[A-Za-z0-9_-]{16,64}$/);
});

it("survives a reload, which releases the lock", async () => {
  const before = await claimClientId("s");
  saveClientId("s", before);
  before.release();
  await vi.waitFor(() => expect(locks.held).toEqual(new Set()));
  expect((await claimClientId("s")).id).toBe(before.id);
});

it("differs in a duplicated tab", async () => {
  const first = await claimClientId("s");
  saveClientId("s", first);
  const copy = await claimClientId("s"); // the copied sessionStorage, while the first tab lives
  expect(copy.id).not.toBe(first.id);
});

it("differs between sessions", async () => {
  const [a, b] = [await claimClientId("a"), await claimClientId("b")];
  expect(a.id).not.toBe(b.id);
});

it("is new on every page without Web Locks, which would reveal a copy", async () => {
  Object.defineProperty(navigator, "locks", { value: undefined, configurable: true });
  const before = await claimClientId("s");
  saveClientId("s", before);
  expect((await claimClientId("s")).id).not.toBe(before.id);
});

it("works when the browser denies locks and storage", async () => {
  vi.spyOn(locks, "request").mockRejectedValue(new DOMException("no", "SecurityError"));
  vi.spyOn(Storage.prototype, "setItem").mockImplementation(() => {
    throw new DOMException("full", "QuotaExceededError");
  });
  const clientId = await newClientId();
  saveClientId("s", clientId);
  expect(clientId.id).toMatch(/^[\w-]{16,64}$/);
});

it("releases the old id's lock when a new one replaces it", async () => {
  const old = await claimClientId("s");
  const fresh = await newClientId();
  old.release();
  await vi.waitFor(() => expect(locks.held).toEqual(new Set([`shellbridge.${fresh.id}`])));
});
