// Short messages above the status line, and questions that want a yes. Announced to screen readers.
import { h } from "./dom";

const region = h("div", { class: "toasts", attrs: { role: "status", "aria-live": "polite" } });
export const toastRegion = region;

/** Says something for a few seconds. The same text twice shows once. */
export function toast(text: string, tone: "plain" | "bad" = "plain"): void {
  for (const old of region.querySelectorAll(".toast:not(.question)")) if (old.textContent === text) old.remove();
  const element = h("div", { class: `toast ${tone}` }, text);
  region.append(element);
  while (region.childElementCount > 3) region.firstElementChild?.remove();
  setTimeout(() => element.remove(), 6_000);
}

/** Asks; resolves to false when it is closed, or not answered within half a minute. */
export function ask(text: string, detail: string, yes: string): Promise<boolean> {
  return new Promise((resolve) => {
    const done = (answer: boolean) => {
      element.remove();
      resolve(answer);
    };
    const element = h(
      "div",
      { class: "toast question", attrs: { role: "group", "aria-label": text } },
      h("strong", {}, text),
      detail && h("code", {}, detail),
      h(
        "div",
        { class: "row" },
        h("button", { type: "button", class: "button primary", onclick: () => done(true) }, yes),
        h("button", { type: "button", class: "button", onclick: () => done(false) }, "No"),
      ),
    );
    for (const old of region.querySelectorAll(".question")) old.remove();
    region.append(element);
    setTimeout(() => done(false), 30_000);
  });
}
