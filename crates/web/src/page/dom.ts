// Helpers that build elements and format values. Text is inserted as text; nothing here parses HTML.

type Child = Node | string | null | undefined | false;
type Props<T extends HTMLElement> = Partial<Omit<T, "style" | "dataset" | "children">> & {
  class?: string;
  attrs?: Record<string, string>;
  on?: { [K in keyof HTMLElementEventMap]?: (event: HTMLElementEventMap[K]) => void };
};

/** Creates an element with properties, attributes, listeners and children. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  props: Props<HTMLElementTagNameMap[K]> = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  const { class: className, attrs, on, ...rest } = props;
  if (className) element.className = className;
  for (const [name, value] of Object.entries(attrs ?? {})) element.setAttribute(name, value);
  for (const [event, listener] of Object.entries(on ?? {})) element.addEventListener(event, listener as EventListener);
  Object.assign(element, rest);
  element.append(
    ...children.filter((child): child is Node | string => child !== null && child !== undefined && child !== false),
  );
  return element;
}

const ICONS = {
  plus: "M8 3.5v9M3.5 8h9",
  close: "M4.5 4.5l7 7M11.5 4.5l-7 7",
  menu: "M3.5 8h.01M8 8h.01M12.5 8h.01",
  search: "M7 11.5a4.5 4.5 0 1 0 0-9 4.5 4.5 0 0 0 0 9zM10.4 10.4l3.1 3.1",
  share: "M8 9.5v-7M5.2 5L8 2.2 10.8 5M3.5 8.5v4.5h9V8.5",
  run: "M5 3.2l7.2 4.8L5 12.8z",
  up: "M4 9.8L8 6l4 3.8",
  down: "M4 6.2L8 10l4-3.8",
  copy: "M6 6h7v7H6zM10 6V3H3v7h3",
  pulse: "M1.8 8h2.7l1.8-4.5 3.2 9L11.4 8h2.8",
  eye: "M1.8 8S4 3.8 8 3.8 14.2 8 14.2 8 12 12.2 8 12.2 1.8 8 1.8 8zM8 9.8a1.8 1.8 0 1 0 0-3.6 1.8 1.8 0 0 0 0 3.6z",
  check: "M3.5 8.5l3 3 6-7",
} as const;

type IconName = keyof typeof ICONS;

export function icon(name: IconName): SVGSVGElement {
  const ns = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(ns, "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  svg.classList.add("icon");
  const path = document.createElementNS(ns, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** Creates a button that shows an icon. The label is its accessible name and its tooltip. */
export function iconButton(name: IconName, label: string, onclick: () => void): HTMLButtonElement {
  return h(
    "button",
    { type: "button", class: "icon-button", title: label, onclick, attrs: { "aria-label": label } },
    icon(name),
  );
}

/** Formats as “3:07:09” or “7:09”. */
export function formatDuration(ms: number): string {
  const seconds = Math.max(0, Math.round(ms / 1000));
  const two = (n: number) => String(n).padStart(2, "0");
  const [hh, mm, ss] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  return hh > 0 ? `${hh}:${two(mm)}:${two(ss)}` : `${mm}:${two(ss)}`;
}

export function formatBytes(n: number): string {
  if (n < 1024) return `${n} B`;
  if (n < 1024 * 1024) return `${(n / 1024).toFixed(1)} KiB`;
  return `${(n / 1024 / 1024).toFixed(1)} MiB`;
}

export const formatMs = (n: number | undefined): string => (n === undefined ? "–" : `${Math.round(n)} ms`);

/** Downloads the content as a file. */
export function download(name: string, type: string, content: BlobPart[]): void {
  const url = URL.createObjectURL(new Blob(content, { type }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
