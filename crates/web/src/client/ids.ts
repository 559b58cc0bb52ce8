// Random ids, and the client id: the name of this client's input stream, which survives reloads of a tab.
//
// A page saves its id when it is unloaded, and the tab's next page takes it over. Duplicating a tab may copy
// sessionStorage, so a Web Lock shows whether the id is in use. A page with unacknowledged input does not save its id: the
// server may hold part of that input behind a hole, and the next page's first bytes would fill it.

export interface ClientId {
  id: string;
  /** Releases the id's Web Lock. */
  release(): void;
}

/** 24 characters of [A-Za-z0-9_-], 144 random bits. */
export function randomId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(18));
  return btoa(String.fromCharCode(...bytes))
    .replace(/\+/g, "-")
    .replace(/\//g, "_");
}

/** Returns the id that this tab saved for the session, unless another tab holds it; otherwise a new one. */
export async function claimClientId(sessionId: string): Promise<ClientId> {
  const locks = globalThis.navigator?.locks;
  const saved = storage((items) => items.getItem(key(sessionId)));
  if (saved && locks) {
    storage((items) => items.removeItem(key(sessionId)));
    const release = await acquire(locks, saved);
    if (release) return { id: saved, release };
  }
  return newClientId();
}

export async function newClientId(): Promise<ClientId> {
  const id = randomId();
  const locks = globalThis.navigator?.locks;
  const release = locks && (await acquire(locks, id));
  return { id, release: release ?? (() => {}) };
}

/** Saves the id for the next page in this tab. */
export function saveClientId(sessionId: string, { id }: ClientId): void {
  storage((items) => items.setItem(key(sessionId), id));
}

const key = (sessionId: string) => `shellbridge.client.${sessionId}`;

/** Uses sessionStorage, which may be missing, denied or full. An id that cannot be saved lasts as long as the page. */
function storage<T>(use: (items: Storage) => T): T | undefined {
  try {
    return use(sessionStorage);
  } catch {
    return undefined;
  }
}

/** Acquires the id's lock and resolves to its release; to undefined if another tab holds it. */
function acquire(locks: LockManager, id: string): Promise<(() => void) | undefined> {
  return new Promise((resolve) => {
    locks
      .request(`shellbridge.${id}`, { ifAvailable: true }, (lock) => {
        if (!lock) return resolve(undefined);
        return new Promise<void>((release) => resolve(release));
      })
      .catch(() => resolve(() => {})); // Opaque origins are denied locks: go without one.
  });
}
