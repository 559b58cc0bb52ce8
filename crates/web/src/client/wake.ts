// What the page learns about its network and its visibility; nothing where there is no page.

/** Calls back when the network comes or goes and when the page is looked at again, until the returned function is called. */
export function watchPage(wake: () => void): () => void {
  if (typeof addEventListener !== "function") return () => {};
  const visible = () => {
    if (document.visibilityState === "visible") wake();
  };
  const set = (change: "addEventListener" | "removeEventListener") => {
    globalThis[change]("online", wake);
    globalThis[change]("offline", wake);
    globalThis.document?.[change]("visibilitychange", visible);
  };
  set("addEventListener");
  return () => set("removeEventListener");
}
