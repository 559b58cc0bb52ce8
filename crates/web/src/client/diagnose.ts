// Why a connection cannot be made: what can be told beforehand, and what the diagnostics endpoint knows.
// Browsers show every refused handshake as 1006, so the true cause has to be asked for.
import { TerminalError, type TerminalErrorCode } from "./errors.js";
import { FETCH_TIMEOUT } from "./limits.js";
import type { ClientOptions } from "./types.js";

/** The address to connect to. */
export function address({ url, tokenIn }: ClientOptions, sessionId: string, token: string): string {
  const query = new URLSearchParams();
  if (sessionId) query.set("sessionId", sessionId);
  if (tokenIn !== "protocol") query.set("token", token);
  return `${url}${url.includes("?") ? "&" : "?"}${query}`;
}

/** A problem that no attempt can get past. */
export function staticProblem(url: string, token: string | undefined): TerminalError | undefined {
  const fatal = (code: TerminalErrorCode, message: string) => new TerminalError(code, message, false);
  if (!token) return fatal("MISSING_AUTH", "There is no token for this session.");
  let parsed: URL;
  try {
    parsed = new URL(url);
  } catch {
    return fatal("WEBSOCKET_CREATION_FAILED", `“${url}” is no WebSocket address.`);
  }
  const host = parsed.hostname;
  if (/(^|\.)awsapprunner\.com$/i.test(host)) {
    return fatal(
      "AWS_APP_RUNNER_ERROR",
      "App Runner carries no WebSockets. Use the wss:// address of the API Gateway: the stack's output WebSocketUrl.",
    );
  }
  const local = host === "localhost" || host === "[::1]" || host.startsWith("127.");
  if (parsed.protocol === "ws:" && globalThis.location?.protocol === "https:" && !local) {
    return fatal("MIXED_CONTENT", "A page on https:// may not connect to ws://: use wss://.");
  }
  return undefined;
}

/** Codes of the endpoint that a later attempt may not meet again. */
const PASSING = /^(BACKEND_|RATE_LIMITED|INTERNAL)/;

/**
 * The true cause of a refused handshake; `undefined` when the endpoint knows of none or cannot be reached. `accepted`:
 * a handshake succeeded before, so it is not the address.
 */
export async function askWhy(
  { diagnosticsUrl, url, token = "", fetch: fetcher = fetch }: ClientOptions,
  sessionId: string,
  accepted: boolean,
  timeout: AbortController,
): Promise<TerminalError | undefined> {
  if (!diagnosticsUrl) return undefined;
  const timer = setTimeout(() => timeout.abort(), FETCH_TIMEOUT);
  try {
    const endpoint = new URL(diagnosticsUrl, globalThis.location?.href);
    if (sessionId) endpoint.searchParams.set("sessionId", sessionId);
    const response = await fetcher(endpoint, {
      headers: { authorization: `Bearer ${token}` },
      credentials: "omit",
      cache: "no-store",
      signal: timeout.signal,
    });
    const { ok, code, message, retryable, webSocketUrl } = (await response.json()) as { [name: string]: unknown };
    if (ok === true && !accepted)
      return new TerminalError("HANDSHAKE_REFUSED", whatIsWrongWith(url, webSocketUrl), true);
    if (ok !== false || typeof code !== "string") return undefined;
    return new TerminalError(
      code as TerminalErrorCode,
      String(message ?? code),
      retryable === true || PASSING.test(code),
    );
  } catch {
    return undefined; // Not reachable, or not the endpoint: then this is no cause, only no news.
  } finally {
    clearTimeout(timer);
  }
}

/** `own`: the address that the server gives out, if it does. */
function whatIsWrongWith(url: string, own: unknown): string {
  const [used = ""] = url.split("?");
  const found = `The backend knows this session, but no handshake was ever accepted at ${used}.`;
  if (used === own) return `${found} Its gateway or function refuses, or cannot be reached.`;
  return `${found} Does the address lack its stage (wss://HOST/STAGE)?${own ? ` The backend's own is ${own}.` : ""}`;
}

/** The `exp` of a JWT in milliseconds, and its session. Nothing is verified: the server does that. */
export function readToken(token = ""): { expiresAt?: number; sessionId?: string } {
  try {
    const claims = JSON.parse(atob((token.split(".")[1] ?? "").replace(/-/g, "+").replace(/_/g, "/")));
    return { expiresAt: claims.exp * 1000 || undefined, sessionId: claims.sessionId };
  } catch {
    return {};
  }
}
