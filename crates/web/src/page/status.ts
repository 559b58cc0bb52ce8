// The status line: state of the connection, round trip, time left in the session.
import type { Status } from "../client";
import { formatDuration, formatMs, h, icon } from "./dom";
import type { Tab } from "./tab";

/** Time left, in milliseconds, below which the status line warns. */
const WARN = 10 * 60_000;
const URGENT = 2 * 60_000;

interface StatusActions {
  diagnostics(): void;
  reconnect(): void;
  extend(): void;
}

/** The state in words. Contains no countdown, so that screen readers announce only changes. */
export function stateLabel(status: Status): string {
  switch (status.state) {
    case "connected":
      return "Connected";
    case "idle":
    case "connecting":
      return "Connecting";
    case "reconnecting":
      return "Reconnecting";
    case "offline":
      return "Offline";
    case "ended":
      return "Ended";
    case "closed":
      return "Closed";
    case "failed":
      return status.error?.code === "REPLACED" ? "Open elsewhere" : "Disconnected";
  }
}

export class StatusLine {
  #dot = h("span", { class: "dot" });
  #text = h("span", { class: "state" });
  #wait = h("span", { class: "wait" });
  #roundTrip = h("span", { class: "trip number", title: "Round trip" });
  #readOnly = h("span", { class: "badge", title: "This link is view-only" }, icon("eye"), "Read-only");
  #size = h("span", { class: "size number", title: "Columns × rows" });
  #timeLeft = h("span", { class: "left number" });
  #extend: HTMLButtonElement;
  #retry: HTMLButtonElement;
  #announcement = h("span", { class: "sr-only", attrs: { role: "status" } });
  #tab: Tab | undefined;
  readonly element: HTMLElement;

  constructor(actions: StatusActions) {
    this.#extend = h("button", { type: "button", class: "link", onclick: actions.extend }, "Extend");
    this.#retry = h("button", { type: "button", class: "link", onclick: actions.reconnect }, "Now");
    const open = h(
      "button",
      { type: "button", class: "connection", title: "Diagnostics", onclick: actions.diagnostics },
      this.#dot,
      this.#text,
      this.#wait,
      this.#roundTrip,
    );
    this.element = h(
      "footer",
      { class: "status", attrs: { "aria-label": "Status" } },
      open,
      this.#retry,
      this.#readOnly,
      h("span", { class: "space" }),
      this.#timeLeft,
      this.#extend,
      this.#size,
      this.#announcement,
    );
    setInterval(() => this.#tick(), 1000);
  }

  show(tab: Tab | undefined): void {
    this.#tab = tab;
    if (!tab) return;
    const { status } = tab.client;
    const words = stateLabel(status);
    this.element.dataset.state = status.state;
    if (this.#text.textContent !== words) this.#announcement.textContent = words;
    this.#text.textContent = words;
    this.#roundTrip.textContent =
      status.state === "connected" && tab.roundTrip !== undefined ? formatMs(tab.roundTrip) : "";
    this.#readOnly.hidden = !status.readOnly;
    this.#retry.hidden = status.retryAt === undefined;
    this.#size.textContent = tab.size ? `${tab.size.cols}×${tab.size.rows}` : "";
    this.#tick();
  }

  #tick(): void {
    const tab = this.#tab;
    if (!tab) return;
    const { retryAt, state, readOnly } = tab.client.status;
    const wait = retryAt === undefined ? 0 : Math.ceil((retryAt - Date.now()) / 1000);
    this.#wait.textContent = wait > 0 ? `in ${wait} s` : "";
    const left = tab.expiresAt === undefined ? undefined : tab.expiresAt - Date.now();
    const live = left !== undefined && state !== "ended" && state !== "failed";
    this.#timeLeft.hidden = !live;
    this.#extend.hidden = !live || readOnly;
    if (left === undefined) return;
    this.#timeLeft.textContent = left > 0 ? `${formatDuration(left)} left` : "Time is up";
    this.#timeLeft.title = `The session ends at ${new Date(tab.expiresAt ?? 0).toLocaleTimeString()}`;
    this.element.dataset.time = left < URGENT ? "urgent" : left < WARN ? "warn" : "";
  }
}
