// A modal question. The browser keeps the focus inside, and Escape cancels.
import { h } from "./dom";

interface Question {
  title: string;
  text: string;
  details: [string, string][];
  yes: string;
  no: string;
}

let cancel = () => {};

/** Resolves to the user's choice. A new question cancels the one that is open. */
export function confirm({ title, text, details, yes, no }: Question): Promise<boolean> {
  cancel();
  return new Promise((resolve) => {
    const close = (confirmed: boolean) => {
      cancel = () => {};
      dialog.close();
      dialog.remove();
      resolve(confirmed);
    };
    cancel = () => close(false);
    const button = (label: string, confirms: boolean) =>
      h(
        "button",
        { type: "button", class: confirms ? "button" : "button primary", onclick: () => close(confirms) },
        label,
      );
    const dialog = h(
      "dialog",
      {
        class: "dialog",
        oncancel: cancel,
        attrs: { "aria-labelledby": "question", "aria-describedby": "question-text" },
      },
      h("h2", { id: "question" }, title),
      h("p", { id: "question-text" }, text),
      h("dl", { class: "facts" }, ...details.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
      // Cancel comes first and has the focus, so that keys typed at this moment confirm nothing.
      h("div", { class: "row" }, button(no, false), button(yes, true)),
    );
    document.body.append(dialog);
    dialog.showModal();
  });
}
