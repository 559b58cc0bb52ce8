// The access token: its claims, and its renewal before it expires.
import { TerminalError } from "./errors.js";
import { FETCH_TIMEOUT, TOKEN_RENEW_BEFORE } from "./limits.js";
import { Timers } from "./timers.js";

/** Longest delay that setTimeout accepts; a longer one would fire at once. */
const DELAY_MAX = 2 ** 31 - 1;

/** Reads a JWT's expiry, in Unix milliseconds, and session. Verifies nothing: the server does that. */
export function readToken(token = ""): { expiresAt?: number; sessionId?: string } {
  try {
    const claims = JSON.parse(atob((token.split(".")[1] ?? "").replace(/-/g, "+").replace(/_/g, "/")));
    return { expiresAt: claims.exp * 1000 || undefined, sessionId: claims.sessionId };
  } catch {
    return {};
  }
}

interface TokenEvents {
  changed(token: string): void;
  error(error: TerminalError): void;
}

export class TokenSource {
  #token: string | undefined;
  #timers = new Timers();
  #refreshing: Promise<boolean> | undefined;
  #generation = 0; // outdates a refresh that cancel() interrupted

  constructor(
    token: string | undefined,
    private readonly refreshToken: (() => Promise<string>) | undefined,
    private readonly events: TokenEvents,
  ) {
    this.#token = token;
  }

  get current(): string | undefined {
    return this.#token;
  }

  get refreshable(): boolean {
    return this.refreshToken !== undefined;
  }

  /** Whether there is no token, or it has expired. */
  get expired(): boolean {
    const { expiresAt } = readToken(this.#token);
    return !this.#token || (expiresAt !== undefined && expiresAt <= Date.now());
  }

  set(token: string): void {
    this.#token = token;
    this.events.changed(token);
  }

  /** Requests a new token; concurrent calls share one request. Resolves to false if none came, or after cancel(). */
  refresh(): Promise<boolean> {
    if (this.#refreshing) return this.#refreshing;
    const request = this.#request().finally(() => {
      if (this.#refreshing !== request) return; // cancelled
      this.#refreshing = undefined;
      this.#timers.clear("timeout");
    });
    this.#refreshing = request;
    return request;
  }

  /** Renews the token shortly before it expires, then calls `renewed`. Without an expiry, does nothing. */
  scheduleRenewal(renewed: () => void): void {
    const { expiresAt } = readToken(this.#token);
    if (!this.refreshToken || expiresAt === undefined) return;
    // The lower bound keeps tokens that are issued for seconds from being renewed in a loop.
    const delay = Math.max(TOKEN_RENEW_BEFORE / 2, expiresAt - TOKEN_RENEW_BEFORE - Date.now());
    this.#timers.set("renew", Math.min(delay, DELAY_MAX), async () => {
      if (await this.refresh()) renewed();
    });
  }

  /** Stops the renewal, and ignores the result of a running request. */
  cancel(): void {
    this.#generation++;
    this.#refreshing = undefined;
    this.#timers.clearAll();
  }

  async #request(): Promise<boolean> {
    const generation = this.#generation;
    try {
      const token = await Promise.race([
        this.refreshToken?.(),
        new Promise<never>((_, reject) =>
          this.#timers.set("timeout", FETCH_TIMEOUT, () => reject(new Error("timed out"))),
        ),
      ]);
      if (generation !== this.#generation || !token || token === this.#token) return false;
      this.set(token);
      return true;
    } catch (error) {
      if (generation === this.#generation) {
        this.events.error(new TerminalError("TOKEN_EXPIRED", `Could not refresh the token: ${error}`, true));
      }
      return false;
    }
  }
}
