// The tab strip. Each tab keeps its element, so that updates do not disturb focus and clicks.
import { h, icon } from "./dom";
import type { Tab } from "./tab";

interface StripActions {
  /** `stay`: keep the focus in the strip. */
  show(tab: Tab, stay: boolean): void;
  close(tab: Tab): void;
}

export class TabStrip {
  readonly element = h("div", { class: "tabs", attrs: { role: "tablist", "aria-label": "Terminals" } });
  #buttons = new Map<Tab, HTMLElement>();
  #tabs: Tab[] = [];

  constructor(private readonly actions: StripActions) {}

  draw(tabs: Tab[], active: Tab | undefined): void {
    this.#tabs = tabs;
    for (const [tab, button] of this.#buttons) {
      if (tabs.includes(tab)) continue;
      button.remove();
      this.#buttons.delete(tab);
    }
    for (const [index, tab] of tabs.entries()) {
      const button = this.#buttons.get(tab) ?? this.#add(tab);
      const name = tabName(tab, index);
      const label = button.querySelector(".name");
      if (label && label.textContent !== name) label.textContent = name;
      button.title = `${name} (Delete closes)`;
      button.tabIndex = tab === active ? 0 : -1;
      button.setAttribute("aria-selected", String(tab === active));
      button.dataset.state = tab.client.status.state;
      tab.pane.setAttribute("aria-label", name);
    }
  }

  /** Moves the focus to the tab. */
  focus(tab: Tab): void {
    this.#buttons.get(tab)?.focus();
  }

  #add(tab: Tab): HTMLElement {
    // Not a button: ARIA makes the children of a tab presentational. Keyboard users press Delete or use the menu.
    const close = h("span", { class: "close", title: "Close", attrs: { "aria-hidden": "true" } }, icon("close"));
    close.onclick = (event) => {
      event.stopPropagation();
      this.actions.close(tab);
    };
    const button = h(
      "button",
      {
        type: "button",
        class: "tab",
        attrs: { role: "tab", "aria-controls": tab.pane.id },
        onclick: () => this.actions.show(tab, false),
        onauxclick: (event) => event.button === 1 && this.actions.close(tab),
        onkeydown: (event) => this.#key(event, tab),
      },
      h("span", { class: "dot" }),
      h("span", { class: "name" }),
      close,
    );
    this.#buttons.set(tab, button);
    this.element.append(button);
    return button;
  }

  #key(event: KeyboardEvent, tab: Tab): void {
    const at = this.#tabs.indexOf(tab);
    const last = this.#tabs.length - 1;
    const to = { ArrowRight: at === last ? 0 : at + 1, ArrowLeft: at === 0 ? last : at - 1, Home: 0, End: last }[
      event.key
    ];
    const target = to === undefined ? undefined : this.#tabs[to];
    if (target) this.actions.show(target, true);
    else if (event.key === "Delete") this.actions.close(tab);
    else return;
    event.preventDefault();
  }
}

/** The title that the shell has set, else a number. */
export const tabName = (tab: Tab, index: number): string => tab.title || `Terminal ${index + 1}`;
