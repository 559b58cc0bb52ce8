// Asks before a link is opened. Its author chose the WebSocket URL, and receives every key typed there.
import { confirm } from "./dialog";
import { type Session, serverUrl } from "./session";
import { isTrusted, trust } from "./trust";

/**
 * Returns the sessions of a link that the user lets the page open. `adds`: the link arrives in a page in use, where the
 * user may be typing, so even the server's own URL needs consent.
 */
export async function consent(sessions: Session[], adds: boolean): Promise<Session[]> {
  const untrusted = await untrustedUrls(sessions.map(({ url }) => url));
  if (untrusted.length === 0 && !adds) return sessions;
  const hosts = [
    ...new Set(sessions.filter(({ url }) => adds || untrusted.includes(url)).map(({ url }) => hostOf(url))),
  ];
  const agreed = await confirm({
    title: untrusted.length > 0 ? "Connect to another address?" : "Open another terminal?",
    text:
      untrusted.length > 0
        ? "This link connects to a different address, which will receive everything that you type."
        : "A link wants to open a terminal in this page. The link’s author may see everything that you type there.",
    details: [
      [hosts.length > 1 ? "Hosts" : "Host", hosts.join("\n")],
      ["Session", sessions.map(({ sessionId }) => sessionId).join("\n")],
    ],
    yes: untrusted.length > 0 ? "Connect" : "Open",
    no: "Cancel",
  });
  if (agreed) for (const url of untrusted) trust(url);
  if (agreed) return sessions;
  return adds ? [] : sessions.filter(({ url }) => !untrusted.includes(url));
}

async function untrustedUrls(urls: string[]): Promise<string[]> {
  const untrusted = [...new Set(urls)].filter((url) => !isTrusted(url));
  if (untrusted.length === 0) return [];
  const own = await serverUrl();
  if (own) trust(own);
  return untrusted.filter((url) => url !== own);
}

/** The host as the browser reads it: `wss://yours@theirs` is theirs, and look-alike letters show as punycode. */
export function hostOf(url: string): string {
  try {
    return new URL(url).host || url;
  } catch {
    return url;
  }
}
