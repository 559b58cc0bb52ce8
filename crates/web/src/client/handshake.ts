// Everything about the handshake that WebSocket does not cover: the URL, configuration errors that can be detected
// before connecting, and the cause of a refusal. Browsers report each refused handshake as 1006, so the diagnostics
// endpoint has to supply the cause.
import { TerminalError, type TerminalErrorCode } from "./errors.js";
import { FETCH_TIMEOUT } from "./limits.js";
import type { ClientOptions } from "./types.js";

/** The WebSocket URL, with the session and, unless it travels as a subprotocol, the token. */
export function socketUrl({ url, tokenIn }: ClientOptions, sessionId: string, token: string): string {
  const query = new URLSearchParams();
  if (sessionId) query.set("sessionId", sessionId);
  if (tokenIn !== "protocol") query.set("token", token);
  return `${url}${url.includes("?") ? "&" : "?"}${query}`;
}

/** A configuration error that makes every attempt fail, if there is one. */
export function configurationError(url: string, token: string | undefined): TerminalError | undefined {
  const fatal = (code: TerminalErrorCode, message: string) => new TerminalError(code, message, false);
  if (!token) return fatal("MISSING_AUTH", "There is no token for this session.");
  let parsed: URL;
  try {
    parsed = new URL(url);
  } catch {
    return fatal("WEBSOCKET_CREATION_FAILED", `“${url}” is not a valid WebSocket URL.`);
  }
  const host = parsed.hostname;
  if (/(^|\.)awsapprunner\.com$/i.test(host)) {
    return fatal(
      "AWS_APP_RUNNER_ERROR",
      "App Runner does not support WebSockets. Use the API Gateway's wss:// URL: the stack's output WebSocketUrl.",
    );
  }
  const local = host === "localhost" || host === "[::1]" || host.startsWith("127.");
  if (parsed.protocol === "ws:" && globalThis.location?.protocol === "https:" && !local) {
    return fatal("MIXED_CONTENT", "An https:// page cannot connect to ws://. Use wss://.");
  }
  return undefined;
}

/** Codes that count as transient when the endpoint does not say so. */
const TRANSIENT = /^(BACKEND_|RATE_LIMITED|INTERNAL)/;

/**
 * Asks the diagnostics endpoint why a handshake was refused. Returns `undefined` if the endpoint knows no cause, is not
 * configured, or cannot be reached. `accepted`: an earlier handshake succeeded, which rules out a wrong URL.
 */
export async function diagnoseRefusal(
  { diagnosticsUrl, url, fetch: fetcher = fetch }: ClientOptions,
  sessionId: string,
  token: string,
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
    if (ok === true && !accepted) {
      return new TerminalError("HANDSHAKE_REFUSED", describeUnusedUrl(url, webSocketUrl), true);
    }
    if (ok !== false || typeof code !== "string") return undefined;
    return new TerminalError(
      code as TerminalErrorCode,
      String(message ?? code),
      retryable === true || TRANSIENT.test(code),
    );
  } catch {
    return undefined; // Unreachable, or not the endpoint. Neither explains the refusal.
  } finally {
    clearTimeout(timer);
  }
}

/** `published`: the WebSocket URL that the server gives to clients, if it has one. */
function describeUnusedUrl(url: string, published: unknown): string {
  const [used = ""] = url.split("?");
  const found = `The backend knows this session, but no handshake at ${used} has succeeded.`;
  if (used === published) return `${found} The gateway or function refuses it or cannot be reached.`;
  const hint = published ? ` The server's URL is ${published}.` : "";
  return `${found} Is the stage missing (wss://HOST/STAGE)?${hint}`;
}
