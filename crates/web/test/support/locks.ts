// jsdom has no Web Locks.

/** Web Locks as far as they are used: exclusive, `ifAvailable`, freed when the callback's promise settles. */
export class Locks {
  held = new Set<string>();
  async request(name: string, _options: object, then: (lock: object | null) => unknown): Promise<void> {
    if (this.held.has(name)) return void (await then(null));
    this.held.add(name);
    await then({ name });
    this.held.delete(name);
  }
}
