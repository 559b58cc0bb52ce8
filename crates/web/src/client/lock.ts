// The client's name for its input stream: kept across reloads of a tab, never shared by two tabs.
// A duplicated tab gets a copy of sessionStorage, so the name alone is not enough: a Web Lock says whether it is taken.

export interface ClientName {
  id: string;
  release(): void;
}

/** 24 characters of [A-Za-z0-9_-], 144 random bits. */
export function randomId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(18));
  return btoa(String.fromCharCode(...bytes))
    .replace(/\+/g, "-")
    .replace(/\//g, "_");
}

/** The name this tab had for the session, if no other tab holds it; else a new one. */
export async function claimName(sessionId: string): Promise<ClientName> {
  const key = `shellbridge.client.${sessionId}`;
  const locks = globalThis.navigator?.locks;
  const stored = locks && read(key); // Without locks (plain http) a copy could not be told: new name every time.
  if (stored) {
    const release = await hold(locks, stored);
    if (release) return { id: stored, release };
  }
  return takeName(sessionId);
}

/** A new name, remembered for the next reload. */
export async function takeName(sessionId: string): Promise<ClientName> {
  const id = randomId();
  const locks = globalThis.navigator?.locks;
  const release = locks && (await hold(locks, id));
  try {
    globalThis.sessionStorage?.setItem(`shellbridge.client.${sessionId}`, id);
  } catch {
    // Storage is denied or full: the name lasts as long as the page.
  }
  return { id, release: release ?? (() => {}) };
}

function read(key: string): string | null {
  try {
    return globalThis.sessionStorage?.getItem(key) ?? null;
  } catch {
    return null;
  }
}

/** Holds the lock of a name until the returned function is called; nothing if another tab holds it. */
function hold(locks: LockManager, id: string): Promise<(() => void) | undefined> {
  return new Promise((resolve) => {
    locks
      .request(`shellbridge.${id}`, { ifAvailable: true }, (lock) => {
        if (!lock) return resolve(undefined);
        return new Promise<void>((release) => resolve(release));
      })
      .catch(() => resolve(() => {})); // Locks are denied here (opaque origin): do without.
  });
}
