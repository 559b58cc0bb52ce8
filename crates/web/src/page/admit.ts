// May a link be opened? Whoever wrote it chose its address, and gets every key that is typed there.
import { confirm } from "./dialog";
import { ownAddress, type Session } from "./session";
import { isTrusted, trust } from "./trust";

/**
 * The sessions of a link that may be opened. `adds`: it comes to a page in use, where somebody may be typing, so that
 * even the server's own address is asked about.
 */
export async function admit(sessions: Session[], adds: boolean): Promise<Session[]> {
  const strange = await strangers(sessions.map(({ url }) => url));
  if (strange.length === 0 && !adds) return sessions;
  const hosts = [...new Set(sessions.filter(({ url }) => adds || strange.includes(url)).map(({ url }) => hostOf(url)))];
  const yes = await confirm({
    title: strange.length > 0 ? "Connect to another address?" : "Open another terminal?",
    text:
      strange.length > 0
        ? "This link leads to an address that is not this server’s own. Whoever is there sees all that you type."
        : "A link wants to add a terminal to this page. Whoever made it may see all that you type there.",
    details: [
      [hosts.length > 1 ? "Hosts" : "Host", hosts.join("\n")],
      ["Session", sessions.map(({ sessionId }) => sessionId).join("\n")],
    ],
    yes: strange.length > 0 ? "Connect" : "Open",
    no: "Cancel",
  });
  if (yes) for (const url of strange) trust(url);
  if (yes) return sessions;
  return adds ? [] : sessions.filter(({ url }) => !strange.includes(url));
}

async function strangers(urls: string[]): Promise<string[]> {
  const strange = [...new Set(urls)].filter((url) => !isTrusted(url));
  if (strange.length === 0) return [];
  const own = await ownAddress();
  if (own) trust(own);
  return strange.filter((url) => url !== own);
}

/** As the browser will read it: `wss://yours@theirs` is theirs, and look-alike letters show as what they are. */
export function hostOf(url: string): string {
  try {
    return new URL(url).host || url;
  } catch {
    return url;
  }
}
