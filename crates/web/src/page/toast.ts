// Short messages above the status line, and questions. Screen readers announce them.
import { h } from "./dom";

const region = h("div", { class: "toasts", attrs: { role: "status", "aria-live": "polite" } });
export const toastRegion = region;

/** Shows a message for a few seconds. Replaces an equal message. */
export function toast(text: string, tone: "plain" | "bad" = "plain"): void {
  for (const old of region.querySelectorAll(".toast:not(.question)")) if (old.textContent === text) old.remove();
  const element = h("div", { class: `toast ${tone}` }, text);
  region.append(element);
  while (region.childElementCount > 3) region.firstElementChild?.remove();
  setTimeout(() => element.remove(), 6_000);
}

/** Resolves to the user's choice; to false after 30 s. A new question hides the one before. */
export function ask(text: string, detail: string, yes: string): Promise<boolean> {
  return new Promise((resolve) => {
    const finish = (accepted: boolean) => {
      element.remove();
      resolve(accepted);
    };
    const element = h(
      "div",
      { class: "toast question", attrs: { role: "group", "aria-label": text } },
      h("strong", {}, text),
      detail && h("code", {}, detail),
      h(
        "div",
        { class: "row" },
        h("button", { type: "button", class: "button primary", onclick: () => finish(true) }, yes),
        h("button", { type: "button", class: "button", onclick: () => finish(false) }, "No"),
      ),
    );
    for (const old of region.querySelectorAll(".question")) old.remove();
    region.append(element);
    setTimeout(() => finish(false), 30_000);
  });
}
