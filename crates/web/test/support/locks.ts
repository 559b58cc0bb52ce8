// Web Locks, which jsdom lacks.

/** The part in use: exclusive, `ifAvailable`, released when the callback's promise settles. */
export class Locks {
  held = new Set<string>();
  async request(name: string, _options: object, then: (lock: object | null) => unknown): Promise<void> {
    if (this.held.has(name)) return void (await then(null));
    this.held.add(name);
    await then({ name });
    this.held.delete(name);
  }
}
