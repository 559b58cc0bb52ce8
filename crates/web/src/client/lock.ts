// The client's name for its input stream: kept across reloads of a tab, never shared by two tabs.
//
// It is laid down when the page goes, and taken up by the next one. A duplicated tab may get a copy of sessionStorage,
// so a Web Lock says whether the name is in use. And a page that goes with input unacknowledged lays nothing down:
// the server may hold some of that input behind a hole, which the next page's first bytes would fill.

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
  const locks = globalThis.navigator?.locks;
  const stored = storage((items) => items.getItem(key(sessionId)));
  if (stored && locks) {
    storage((items) => items.removeItem(key(sessionId)));
    const release = await hold(locks, stored);
    if (release) return { id: stored, release };
  }
  return takeName();
}

/** A new name. */
export async function takeName(): Promise<ClientName> {
  const id = randomId();
  const locks = globalThis.navigator?.locks;
  const release = locks && (await hold(locks, id));
  return { id, release: release ?? (() => {}) };
}

/** For the next page of this tab. */
export function keepName(sessionId: string, { id }: ClientName): void {
  storage((items) => items.setItem(key(sessionId), id));
}

const key = (sessionId: string) => `shellbridge.client.${sessionId}`;

/** Storage may be missing, denied or full: then a name lasts as long as the page. */
function storage<T>(use: (items: Storage) => T): T | undefined {
  try {
    return use(sessionStorage);
  } catch {
    return undefined;
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
