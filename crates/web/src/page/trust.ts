// WebSocket URLs that need no consent: the server's own, and those that the user has accepted. Kept in sessionStorage,
// so that a reload does not ask again, even while the server is unreachable.
const KEY = "shellbridge.trusted";

const trusted = new Set<string>(load());

export const isTrusted = (url: string): boolean => trusted.has(url);

export function trust(url: string): void {
  trusted.add(url);
  try {
    sessionStorage.setItem(KEY, JSON.stringify([...trusted]));
  } catch {
    // Storage is denied: a reload asks again.
  }
}

function load(): string[] {
  try {
    return JSON.parse(sessionStorage.getItem(KEY) ?? "[]");
  } catch {
    return [];
  }
}
