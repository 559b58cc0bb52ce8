// Which WebSocket addresses the page connects to unasked: the server's own, and those that the user agreed to. Kept for
// this tab, so that a reload asks nothing again, even while the server is away.
const KEY = "shellbridge.trusted";

const trusted = new Set<string>(read());

export const isTrusted = (url: string): boolean => trusted.has(url);

export function trust(url: string): void {
  trusted.add(url);
  try {
    sessionStorage.setItem(KEY, JSON.stringify([...trusted]));
  } catch {
    // Then a reload asks again.
  }
}

function read(): string[] {
  try {
    return JSON.parse(sessionStorage.getItem(KEY) ?? "[]");
  } catch {
    return [];
  }
}
