// What the page learns about its network and its visibility; nothing where there is no page.

/**
 * Calls back until the returned function is called. `wake`: the network came or went, or the page is looked at again.
 * `leave`: the page goes away.
 */
export function watchPage(wake: () => void, leave: () => void): () => void {
  if (typeof addEventListener !== "function") return () => {};
  const visible = () => {
    if (document.visibilityState === "visible") wake();
  };
  const set = (change: "addEventListener" | "removeEventListener") => {
    globalThis[change]("online", wake);
    globalThis[change]("offline", wake);
    globalThis[change]("pagehide", leave);
    globalThis.document?.[change]("visibilitychange", visible);
  };
  set("addEventListener");
  return () => set("removeEventListener");
}
