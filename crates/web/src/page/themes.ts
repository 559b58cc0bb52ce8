// The terminal's colours, dark and light. style/theme.css has the page's.
import type { ITheme } from "@xterm/xterm";
import { settings, updateSettings, watchSettings } from "./settings";

const DARK: ITheme = {
  background: "#0f1216",
  foreground: "#dfe3e8",
  cursor: "#7fb2ff",
  cursorAccent: "#0f1216",
  selectionBackground: "#2f4a73",
  selectionInactiveBackground: "#2a3f5f",
  overviewRulerBorder: "#00000000",
  scrollbarSliderBackground: "#9aa4b033",
  scrollbarSliderHoverBackground: "#9aa4b055",
  scrollbarSliderActiveBackground: "#9aa4b077",
  black: "#2a2f37",
  red: "#f2777a",
  green: "#8fcf8b",
  yellow: "#e5c07b",
  blue: "#7fb2ff",
  magenta: "#cf9bee",
  cyan: "#6fcfd6",
  white: "#cdd3da",
  brightBlack: "#79838f",
  brightRed: "#ff9496",
  brightGreen: "#aee5a9",
  brightYellow: "#f7d999",
  brightBlue: "#a3c8ff",
  brightMagenta: "#e0b8f8",
  brightCyan: "#95e4e9",
  brightWhite: "#ffffff",
};

const LIGHT: ITheme = {
  background: "#fdfdfc",
  foreground: "#22272e",
  cursor: "#1f5fc4",
  cursorAccent: "#fdfdfc",
  selectionBackground: "#c5dafb",
  selectionInactiveBackground: "#d3e1f7",
  overviewRulerBorder: "#00000000",
  scrollbarSliderBackground: "#59626d33",
  scrollbarSliderHoverBackground: "#59626d55",
  scrollbarSliderActiveBackground: "#59626d77",
  black: "#22272e",
  red: "#b3261e",
  green: "#1a6b2d",
  yellow: "#7a5200",
  blue: "#1f5fc4",
  magenta: "#8339a8",
  cyan: "#0b6a75",
  white: "#5b6470",
  brightBlack: "#6a737d",
  brightRed: "#cf372e",
  brightGreen: "#22803a",
  brightYellow: "#8f6400",
  brightBlue: "#2f74e0",
  brightMagenta: "#9a4cc2",
  brightCyan: "#0d7f8c",
  brightWhite: "#3a414a",
};

const prefersDark = matchMedia("(prefers-color-scheme: dark)");

/** Whether the theme in use is dark. */
export const dark = (): boolean => {
  const { theme } = settings();
  return theme === "system" ? prefersDark.matches : theme === "dark";
};

export const terminalTheme = (): ITheme => (dark() ? DARK : LIGHT);

/** Applies the chosen theme, now and on every change; “system” follows the system. */
export function applyThemes(): void {
  const apply = () => {
    document.documentElement.dataset.theme = dark() ? "dark" : "light";
  };
  watchSettings(apply);
  prefersDark.addEventListener("change", () => updateSettings({}));
}
