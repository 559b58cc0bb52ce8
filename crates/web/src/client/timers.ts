// Named timers that can all be stopped at once, so that none outlives close().

export class Timers {
  #running = new Map<string, ReturnType<typeof setTimeout>>();

  /** Calls `callback` after `ms`. Replaces a running timer of that name. */
  set(name: string, ms: number, callback: () => void): void {
    this.clear(name);
    this.#running.set(
      name,
      setTimeout(() => {
        this.#running.delete(name);
        callback();
      }, ms),
    );
  }

  has(name: string): boolean {
    return this.#running.has(name);
  }

  clear(name: string): void {
    clearTimeout(this.#running.get(name));
    this.#running.delete(name);
  }

  clearAll(): void {
    for (const name of [...this.#running.keys()]) this.clear(name);
  }
}
