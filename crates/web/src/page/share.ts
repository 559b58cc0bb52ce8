// The “Share a read-only link” panel. The link carries its credentials in the #fragment only.
import { h, icon } from "./dom";
import type { Panel } from "./drawer";
import { share, writeFragment } from "./session";
import type { Tab } from "./tab";

const TIMES: [string, number][] = [
  ["15 minutes", 900],
  ["1 hour", 3600],
  ["8 hours", 28_800],
];

export function sharePanel(current: () => Tab | undefined, copy: (text: string) => Promise<boolean>): Panel {
  const time = h(
    "select",
    { class: "field", id: "share-time" },
    ...TIMES.map(([text, s]) => h("option", { value: String(s) }, text)),
  );
  const make = h("button", { type: "submit", class: "button primary" }, icon("share"), "Make a link");
  const link = h("input", { class: "field mono", readOnly: true, attrs: { "aria-label": "Read-only link" } });
  const copyButton = h("button", { type: "button", class: "button" }, icon("copy"), "Copy");
  const result = h("div", { class: "row", hidden: true }, link, copyButton);
  const note = h("p", { class: "hint", attrs: { role: "status" } });
  const copyLink = async () => {
    link.select();
    note.textContent = (await copy(link.value))
      ? "Copied. Anyone with the link can watch."
      : "Copy the link from the field.";
  };
  const form = h("form", { class: "share-form" }, h("label", { htmlFor: "share-time" }, "Valid for"), time, make);
  form.onsubmit = async (event) => {
    event.preventDefault();
    const tab = current();
    if (!tab) return;
    make.disabled = true;
    try {
      const { token } = await share(tab.session, Number(time.value));
      const { sessionId, url } = tab.session;
      link.value = `${location.origin}${location.pathname}${writeFragment([{ sessionId, token, url }])}`;
      result.hidden = false;
      await copyLink();
    } catch (error) {
      note.textContent = error instanceof Error ? error.message : String(error);
    } finally {
      make.disabled = false;
    }
  };
  copyButton.onclick = () => void copyLink();
  const hint = h("p", { class: "hint" }, "Viewers see this terminal but cannot type. They need no account.");
  return { title: "Share a read-only link", body: h("div", { class: "body" }, hint, form, result, note), focus: time };
}
