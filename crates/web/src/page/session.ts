// The sessions in the page's URL, and their HTTP API. Credentials live in the #fragment only, which browsers never send
// to a server.
import { trust } from "./trust";

export interface Session {
  sessionId: string;
  token: string;
  url: string;
}

/** Parses `#sessionId=…&token=…&url=…`, repeated per tab; `active` is the index of the selected tab. */
export function readFragment(hash: string): { sessions: Session[]; active: number } {
  const query = new URLSearchParams(hash.replace(/^#/, ""));
  const [ids, tokens, urls] = [query.getAll("sessionId"), query.getAll("token"), query.getAll("url")];
  const sessions = ids.flatMap((sessionId, i) => {
    const [token, url] = [tokens[i], urls[i] ?? urls[0]];
    return token && url ? [{ sessionId, token, url }] : [];
  });
  return { sessions, active: Number(query.get("active") ?? 0) || 0 };
}

export function writeFragment(sessions: Session[], active = 0): string {
  const query = new URLSearchParams();
  for (const { sessionId, token, url } of sessions) {
    query.append("sessionId", sessionId);
    query.append("token", token);
    query.append("url", url);
  }
  if (active > 0) query.set("active", String(active));
  return `#${query}`;
}

export class ApiError extends Error {
  constructor(
    message: string,
    readonly status: number,
  ) {
    super(message);
  }
}

async function call<T>(method: string, path: string, token?: string, body?: unknown): Promise<T> {
  let response: Response;
  try {
    response = await fetch(path, {
      method,
      headers: {
        ...(body !== undefined && { "content-type": "application/json" }),
        ...(token && { authorization: `Bearer ${token}` }),
      },
      ...(body !== undefined && { body: JSON.stringify(body) }),
      cache: "no-store",
      credentials: "omit",
      signal: AbortSignal.timeout(15_000),
    });
  } catch {
    throw new ApiError("The server cannot be reached.", 0);
  }
  const result = (await response.json().catch(() => ({}))) as T & { message?: unknown; error?: unknown };
  if (response.ok) return result;
  const message = [result.message, result.error].find((text) => typeof text === "string");
  throw new ApiError(
    typeof message === "string" ? message : `The server returned status ${response.status}.`,
    response.status,
  );
}

const path = ({ sessionId }: Session) => `/api/sessions/${encodeURIComponent(sessionId)}`;

/** Creates a session on a server that allows it to everyone (DEV_SESSIONS). */
export async function devSession(): Promise<Session> {
  const created = await call<{ sessionId: string; token: string | null; webSocketUrl: string | null }>(
    "POST",
    "/api/dev/sessions",
    undefined,
    {},
  );
  if (!created.token || !created.webSocketUrl)
    throw new ApiError("The server issues no token or has no WebSocket URL.", 200);
  trust(created.webSocketUrl);
  return { sessionId: created.sessionId, token: created.token, url: created.webSocketUrl };
}

export const DIAGNOSTICS = "/api/diagnostics/websocket";

/** This server's WebSocket URL; undefined if it has none or cannot be reached. */
export async function serverUrl(): Promise<string | undefined> {
  try {
    return (await call<{ webSocketUrl?: string | null }>("GET", DIAGNOSTICS)).webSocketUrl ?? undefined;
  } catch {
    return undefined;
  }
}

/** The session's expiry in Unix milliseconds. */
export const expiry = async (session: Session): Promise<number | undefined> =>
  (await call<{ expiresAt?: number }>("GET", `${path(session)}/validate`, session.token)).expiresAt;

export const extend = (session: Session, seconds: number) =>
  call<{ expiresAt: number; token: string | null }>("POST", `${path(session)}/extend`, session.token, { seconds });

export const share = (session: Session, ttlSeconds: number) =>
  call<{ token: string; expiresAt: number }>("POST", `${path(session)}/share`, session.token, { ttlSeconds });
