// The diagnostics panel and its report.
import { formatBytes, formatDuration, formatMs, h, icon } from "./dom";
import type { Panel } from "./drawer";
import { stateLabel } from "./status";
import type { Tab } from "./tab";

/** Names and values in display order. The token is masked. */
function rows(tab: Tab): [string, string][] {
  const d = tab.client.diagnostics;
  return [
    ["State", stateLabel(tab.client.status)],
    ["Last error", d.lastError ? `${d.lastError.code}: ${d.lastError.message}` : "none"],
    [
      "Backend",
      d.unansweredSince ? `silent for ${formatDuration(Date.now() - d.unansweredSince)}` : "no unanswered frames",
    ],
    ["Address", d.url],
    ["Session", d.sessionId],
    ["Connection", d.connectionId ?? "–"],
    ["Client", d.clientId ?? "–"],
    ["Handshake", formatMs(d.connectionTime)],
    [
      "Round trip",
      `last ${formatMs(d.roundTrip.last)}, median ${formatMs(d.roundTrip.median)}, p95 ${formatMs(d.roundTrip.p95)}`,
    ],
    ["Failed attempts", String(d.attempts)],
    ["Reconnects", String(d.reconnects)],
    ["Received", `${formatBytes(d.bytesIn)}, output to byte ${d.outputOffset.toLocaleString("en")}`],
    ["Sent", `${formatBytes(d.bytesOut)}, input to byte ${d.inputOffset.toLocaleString("en")}`],
    ["Sent again", formatBytes(d.retransmissions)],
    ["Output lost", d.outputLost > 0 ? `${formatBytes(d.outputLost)} (replaced by a snapshot of the screen)` : "none"],
    ["Terminal", `${tab.terminal.cols}×${tab.terminal.rows}, ${tab.binding.renderer} renderer`],
  ];
}

const report = (tab: Tab): string =>
  [
    `Shellbridge, ${new Date().toISOString()}`,
    ...rows(tab).map(([name, value]) => `${name}: ${value}`),
    `Browser: ${navigator.userAgent}`,
    `Page: ${location.origin}${location.pathname}, online ${navigator.onLine}`,
  ].join("\n");

export function diagnosticsPanel(current: () => Tab | undefined, copy: (text: string) => Promise<boolean>): Panel {
  const list = h("dl", { class: "facts" });
  const values = new Map<string, HTMLElement>();
  const button = h("button", { type: "button", class: "button primary" }, icon("copy"), "Copy report");
  const ping = h("button", { type: "button", class: "button" }, icon("pulse"), "Ping");
  const refresh = () => {
    const tab = current();
    for (const [name, value] of tab ? rows(tab) : []) {
      let cell = values.get(name);
      if (!cell) {
        cell = h("dd");
        values.set(name, cell);
        list.append(h("dt", {}, name), cell);
      }
      if (cell.textContent !== value) cell.textContent = value;
    }
  };
  button.onclick = async () => {
    const tab = current();
    if (tab && (await copy(report(tab)))) button.lastChild?.replaceWith("Copied");
    setTimeout(() => button.lastChild?.replaceWith("Copy report"), 2_000);
  };
  ping.onclick = () => current()?.client.ping();
  refresh();
  const timer = setInterval(refresh, 500);
  return {
    title: "Diagnostics",
    body: h("div", { class: "body" }, list, h("div", { class: "row" }, button, ping)),
    focus: button,
    closed: () => clearInterval(timer),
  };
}
