// The menu. Works by mouse, touch and keyboard (arrows, Home, End, Escape).
import { h, iconButton } from "./dom";

interface MenuItem {
  label: string;
  keys?: string;
  /** Set for items that can be checked. */
  checked?: boolean;
  disabled?: boolean;
  /** Keeps the menu open, for items that are used repeatedly. */
  stays?: boolean;
  run(): void;
}

export type MenuSection = { title?: string; items: MenuItem[] };

export class Menu {
  readonly button = iconButton("menu", "Menu (Ctrl+Shift+Space)", () => this.toggle());
  readonly element = h("div", { class: "menu", hidden: true, attrs: { role: "menu", "aria-label": "Menu" } });

  constructor(
    private readonly sections: () => MenuSection[],
    private readonly onClose: () => void,
  ) {
    this.button.setAttribute("aria-haspopup", "menu");
    this.button.setAttribute("aria-expanded", "false");
    this.element.addEventListener("keydown", (event) => this.#key(event));
    document.addEventListener("pointerdown", (event) => {
      const target = event.target as Node;
      if (!this.element.hidden && !this.element.contains(target) && !this.button.contains(target)) this.close(false);
    });
  }

  toggle(): void {
    if (this.element.hidden) this.open();
    else this.close();
  }

  open(): void {
    this.element.hidden = false;
    this.button.setAttribute("aria-expanded", "true");
    this.#draw(0);
  }

  close(refocus = true): void {
    if (this.element.hidden) return;
    this.element.hidden = true;
    this.button.setAttribute("aria-expanded", "false");
    if (refocus) this.onClose();
  }

  #draw(focused: number): void {
    this.element.replaceChildren(
      ...this.sections().map(({ title, items }) =>
        h(
          "div",
          { class: "section", attrs: { role: "group", ...(title && { "aria-label": title }) } },
          title && h("div", { class: "title", attrs: { "aria-hidden": "true" } }, title),
          ...items.map((item) => this.#item(item)),
        ),
      ),
    );
    this.#focus(focused);
  }

  #item(item: MenuItem): HTMLElement {
    const choice = item.checked !== undefined;
    return h(
      "button",
      {
        type: "button",
        tabIndex: -1,
        disabled: item.disabled ?? false,
        attrs: {
          role: choice ? "menuitemcheckbox" : "menuitem",
          ...(choice && { "aria-checked": String(item.checked) }),
        },
        onclick: () => {
          const at = this.#items().indexOf(document.activeElement as HTMLElement);
          if (!item.stays) this.close();
          item.run();
          if (item.stays) this.#draw(Math.max(0, at));
        },
      },
      h("span", { class: "label" }, item.label),
      item.keys && h("kbd", {}, item.keys),
    );
  }

  #items(): HTMLElement[] {
    return [...this.element.querySelectorAll<HTMLElement>("button:not(:disabled)")];
  }

  #focus(index: number): void {
    const items = this.#items();
    items[(index + items.length) % items.length]?.focus();
  }

  #key(event: KeyboardEvent): void {
    const at = this.#items().indexOf(document.activeElement as HTMLElement);
    if (event.key === "ArrowDown") this.#focus(at + 1);
    else if (event.key === "ArrowUp") this.#focus(at - 1);
    else if (event.key === "Home") this.#focus(0);
    else if (event.key === "End") this.#focus(-1);
    else if (event.key === "Escape" || event.key === "Tab") this.close();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}
