// The “Run a command” panel: commands beside the shell, with their output.
import { TerminalError } from "../client";
import { formatDuration, h, icon } from "./dom";
import type { Panel } from "./drawer";
import type { Tab } from "./tab";

const TIMEOUTS: [string, number][] = [
  ["25 s", 25_000],
  ["2 min", 120_000],
  ["10 min", 600_000],
];

/** Survives closing the panel. */
const runs = h("div", { class: "runs", attrs: { role: "log", "aria-label": "Results" } });

export function commandPanel(current: () => Tab | undefined): Panel {
  const input = h("input", {
    class: "field mono",
    name: "command",
    placeholder: "ls -la",
    autocomplete: "off",
    spellcheck: false,
    required: true,
    attrs: { "aria-label": "Command", autocapitalize: "off" },
  });
  const timeout = h(
    "select",
    { class: "field", attrs: { "aria-label": "Time limit" } },
    ...TIMEOUTS.map(([text, value]) => h("option", { value: String(value) }, text)),
  );
  const form = h(
    "form",
    { class: "run-form" },
    input,
    timeout,
    h("button", { class: "button primary" }, icon("run"), "Run"),
  );
  form.onsubmit = (event) => {
    event.preventDefault();
    const tab = current();
    const command = input.value;
    if (!tab || !command.trim()) return;
    input.select();
    runs.prepend(run(tab, command, Number(timeout.value)));
    while (runs.childElementCount > 50) runs.lastElementChild?.remove();
  };
  const hint = h(
    "p",
    { class: "hint" },
    "Runs beside the shell, in the same session. Commands share the working directory and exported variables.",
  );
  return { title: "Run a command", body: h("div", { class: "body" }, form, hint, runs), focus: input };
}

function run(tab: Tab, command: string, timeoutMs: number): HTMLElement {
  const verdict = h("span", { class: "verdict running number" }, "running");
  const output = h("pre", { tabIndex: 0, hidden: true, attrs: { "aria-label": "Output" } });
  const bar = h("progress", { max: timeoutMs, value: 0, attrs: { "aria-label": "Time used" } });
  const started = performance.now();
  const timer = setInterval(() => {
    const spent = performance.now() - started;
    bar.value = spent;
    verdict.textContent = `running, ${formatDuration(spent)}`;
  }, 250);
  const finish = (tone: string, text: string, printed: string) => {
    clearInterval(timer);
    bar.remove();
    verdict.className = `verdict number ${tone}`;
    verdict.textContent = text;
    output.hidden = printed === "";
    output.textContent = printed;
  };
  tab.client.command(command, { timeoutMs }).then(
    ({ result, exitCode, durationMs, signal, truncated }) =>
      finish(
        exitCode === 0 ? "good" : "bad",
        `${signal ?? `exit ${exitCode}`}, ${durationMs < 1000 ? `${durationMs} ms` : `${(durationMs / 1000).toFixed(1)} s`}`,
        result + (truncated ? "\n… (truncated)" : ""),
      ),
    (error: unknown) =>
      finish("bad", error instanceof TerminalError ? error.code : "failed", String((error as Error).message)),
  );
  return h("article", { class: "run" }, h("header", {}, h("code", {}, command), verdict), bar, output);
}
