// The banner over the terminal: why a session is not usable, and what the user can do.
import { h } from "./dom";

export type BannerAction = [label: string, run: () => void];

export class Banner {
  readonly element = h("div", { class: "banner", hidden: true, attrs: { role: "alert" } });
  #key = "";

  /** Shows the banner and focuses its first action. Does nothing if it shows this text already. */
  show(title: string, text: string, actions: BannerAction[]): void {
    const key = title + text;
    if (!this.element.hidden && this.#key === key) return;
    this.#key = key;
    this.element.hidden = false;
    this.element.replaceChildren(
      h("h2", {}, title),
      text && h("p", {}, sentence(text)),
      h(
        "div",
        { class: "row" },
        ...actions.map(([label, run]) => h("button", { type: "button", class: "button primary", onclick: run }, label)),
      ),
    );
    this.element.querySelector("button")?.focus();
  }

  hide(): void {
    this.element.hidden = true;
  }
}

/** Makes a sentence of the server's messages, which are written as parts of log lines. */
const sentence = (text: string) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
