// Page events that affect a connection. Without a page, as in Node, there are none.

/**
 * Subscribes until the returned function is called. `wake`: the network came or went, or the page became visible.
 * `leave`: the page is unloaded.
 */
export function watchPage(wake: () => void, leave: () => void): () => void {
  if (typeof addEventListener !== "function") return () => {};
  const visible = () => {
    if (document.visibilityState === "visible") wake();
  };
  const apply = (change: "addEventListener" | "removeEventListener") => {
    globalThis[change]("online", wake);
    globalThis[change]("offline", wake);
    globalThis[change]("pagehide", leave);
    globalThis.document?.[change]("visibilitychange", visible);
  };
  apply("addEventListener");
  return () => apply("removeEventListener");
}
