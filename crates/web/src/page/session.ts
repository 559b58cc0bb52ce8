// Which sessions this page has, and the HTTP calls about them. Credentials live in the #fragment only: it is sent to
// no server and stays out of logs.
import { trust } from "./trust";

export interface Session {
  sessionId: string;
  token: string;
  url: string;
}

/** `#sessionId=…&token=…&url=…`, repeated for every tab; `active` is the index of the tab in front. */
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
  const answer = (await response.json().catch(() => ({}))) as T & { message?: unknown; error?: unknown };
  if (response.ok) return answer;
  const said = [answer.message, answer.error].find((text) => typeof text === "string");
  throw new ApiError(typeof said === "string" ? said : `The server answered ${response.status}.`, response.status);
}

const at = ({ sessionId }: Session) => `/api/sessions/${encodeURIComponent(sessionId)}`;

/** A new session, where the server gives them to anybody (DEV_SESSIONS). */
export async function devSession(): Promise<Session> {
  const made = await call<{ sessionId: string; token: string | null; webSocketUrl: string | null }>(
    "POST",
    "/api/dev/sessions",
    undefined,
    {},
  );
  if (!made.token || !made.webSocketUrl) throw new ApiError("The server gives no token or no WebSocket address.", 200);
  trust(made.webSocketUrl);
  return { sessionId: made.sessionId, token: made.token, url: made.webSocketUrl };
}

export const DIAGNOSTICS = "/api/diagnostics/websocket";

/** The address that this server gives out; undefined where it has none, or does not answer. */
export async function ownAddress(): Promise<string | undefined> {
  try {
    return (await call<{ webSocketUrl?: string | null }>("GET", DIAGNOSTICS)).webSocketUrl ?? undefined;
  } catch {
    return undefined;
  }
}

/** Unix milliseconds of the session's end. */
export const expiry = async (session: Session): Promise<number | undefined> =>
  (await call<{ expiresAt?: number }>("GET", `${at(session)}/validate`, session.token)).expiresAt;

export const extend = (session: Session, seconds: number) =>
  call<{ expiresAt: number; token: string | null }>("POST", `${at(session)}/extend`, session.token, { seconds });

export const share = (session: Session, ttlSeconds: number) =>
  call<{ token: string; expiresAt: number }>("POST", `${at(session)}/share`, session.token, { ttlSeconds });
