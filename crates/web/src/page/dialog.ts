// A question that all else waits for. The browser keeps the focus in it, and Escape is a no.
import { h } from "./dom";

export interface Question {
  title: string;
  text: string;
  details: [string, string][];
  yes: string;
  no: string;
}

let refuse = () => {};

/** Asks; one question at a time, and a newer one takes an older one for refused. */
export function confirm({ title, text, details, yes, no }: Question): Promise<boolean> {
  refuse();
  return new Promise((resolve) => {
    const done = (answer: boolean) => {
      refuse = () => {};
      dialog.close();
      dialog.remove();
      resolve(answer);
    };
    refuse = () => done(false);
    const button = (label: string, answer: boolean) =>
      h("button", { type: "button", class: answer ? "button" : "button primary", onclick: () => done(answer) }, label);
    const dialog = h(
      "dialog",
      {
        class: "dialog",
        oncancel: refuse,
        attrs: { "aria-labelledby": "question", "aria-describedby": "question-text" },
      },
      h("h2", { id: "question" }, title),
      h("p", { id: "question-text" }, text),
      h("dl", { class: "facts" }, ...details.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
      // The no comes first and has the focus: what is typed just then answers nothing that matters.
      h("div", { class: "row" }, button(no, false), button(yes, true)),
    );
    document.body.append(dialog);
    dialog.showModal();
  });
}
