// What the page learns about its network and its visibility; nothing where there is no page.

/** Calls back until the returned function is called. `wake`: online again, or looked at again. */
export function watchPage(wake: () => void, offline: () => void): () => void {
  const page = typeof addEventListener === "function" ? globalThis : undefined;
  const visible = () => {
    if (document.visibilityState === "visible") wake();
  };
  page?.addEventListener("online", wake);
  page?.addEventListener("offline", offline);
  page?.document?.addEventListener("visibilitychange", visible);
  return () => {
    page?.removeEventListener("online", wake);
    page?.removeEventListener("offline", offline);
    page?.document?.removeEventListener("visibilitychange", visible);
  };
}
