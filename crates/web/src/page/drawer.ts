// The side panel. Shows one panel at a time; Escape closes it and returns the focus.
import { h, iconButton } from "./dom";

export interface Panel {
  title: string;
  body: HTMLElement;
  /** Receives the focus when the panel opens; default: the close button. */
  focus?: HTMLElement;
  closed?(): void;
}

export class Drawer {
  readonly element = h("aside", { class: "drawer", hidden: true });
  #panel: Panel | undefined;

  constructor(private readonly onClose: () => void) {
    this.element.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      this.close();
    });
  }

  get title(): string | undefined {
    return this.#panel?.title;
  }

  open(panel: Panel): void {
    this.#panel?.closed?.();
    this.#panel = panel;
    const close = iconButton("close", "Close panel", () => this.close());
    this.element.replaceChildren(h("header", {}, h("h2", {}, panel.title), close), panel.body);
    this.element.setAttribute("aria-label", panel.title);
    this.element.hidden = false;
    (panel.focus ?? close).focus();
  }

  close(): void {
    if (!this.#panel) return;
    this.#panel.closed?.();
    this.#panel = undefined;
    this.element.hidden = true;
    this.element.replaceChildren();
    this.onClose();
  }
}
