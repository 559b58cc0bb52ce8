// The search bar (Ctrl+Shift+F): searches the screen and the scrollback.
import type { ISearchOptions } from "@xterm/addon-search";
import { h, iconButton } from "./dom";
import type { Tab } from "./tab";
import { dark } from "./themes";

/** Highlight colours that keep the text readable in either theme. */
const options = (): ISearchOptions => ({
  decorations: dark()
    ? { matchBackground: "#4a401c", activeMatchBackground: "#7a5f12", ...RULER }
    : { matchBackground: "#fdeeb8", activeMatchBackground: "#ffd766", ...RULER },
});
const RULER = { matchOverviewRuler: "#c9a227", activeMatchColorOverviewRuler: "#e0b020" };

export class SearchBar {
  #input = h("input", {
    class: "field",
    type: "search",
    placeholder: "Find",
    autocomplete: "off",
    spellcheck: false,
    attrs: { "aria-label": "Find in terminal" },
  });
  #count = h("span", { class: "count number", attrs: { role: "status" } });
  readonly element: HTMLElement;
  #subscription: { dispose(): void } | undefined;

  constructor(private readonly current: () => Tab | undefined) {
    this.element = h(
      "div",
      { class: "search", hidden: true, attrs: { role: "search" } },
      this.#input,
      this.#count,
      iconButton("up", "Previous match", () => this.#find(false)),
      iconButton("down", "Next match", () => this.#find(true)),
      iconButton("close", "Close search", () => this.close()),
    );
    this.#input.oninput = () => this.#find(false, true);
    this.element.onkeydown = (event) => {
      if (event.key === "Escape") this.close();
      else if (event.key === "Enter" && event.target === this.#input) this.#find(event.shiftKey);
      else return;
      event.preventDefault();
    };
  }

  open(): void {
    const tab = this.current();
    if (!tab) return;
    this.element.hidden = false;
    const selected = tab.terminal.getSelection();
    if (selected && !selected.includes("\n")) this.#input.value = selected;
    this.#subscription?.dispose();
    this.#subscription = tab.binding.search.onDidChangeResults(({ resultIndex, resultCount }) => {
      this.#count.textContent = resultCount === 0 ? "none" : `${resultIndex + 1} of ${resultCount}`;
    });
    this.#input.focus();
    this.#input.select();
    this.#find(false, true);
  }

  close(): void {
    if (this.element.hidden) return;
    this.element.hidden = true;
    this.#subscription?.dispose();
    this.#subscription = undefined;
    this.#count.textContent = "";
    this.current()?.binding.search.clearDecorations();
    this.current()?.terminal.focus();
  }

  #find(next: boolean, incremental = false): void {
    const search = this.current()?.binding.search;
    const text = this.#input.value;
    if (!search) return;
    if (!text) {
      search.clearDecorations();
      this.#count.textContent = "";
    } else if (next) search.findNext(text, options());
    else search.findPrevious(text, { ...options(), incremental });
  }
}
