// The user's settings, kept in localStorage.

interface Settings {
  theme: "system" | "dark" | "light";
  fontSize: number;
  screenReader: boolean;
  predict: boolean;
}

const KEY = "shellbridge.settings";
const DEFAULTS: Settings = { theme: "system", fontSize: 14, screenReader: false, predict: false };
const FONT_SIZES = { min: 9, max: 28 };

const listeners = new Set<(settings: Settings) => void>();
let current = load();

function load(): Settings {
  try {
    const stored = JSON.parse(localStorage.getItem(KEY) ?? "{}") as Partial<Settings>;
    const settings = { ...DEFAULTS };
    if (stored.theme === "dark" || stored.theme === "light") settings.theme = stored.theme;
    if (typeof stored.fontSize === "number") settings.fontSize = clampFont(stored.fontSize);
    settings.screenReader = stored.screenReader === true;
    settings.predict = stored.predict === true;
    return settings;
  } catch {
    return { ...DEFAULTS };
  }
}

const clampFont = (size: number) => Math.min(FONT_SIZES.max, Math.max(FONT_SIZES.min, Math.round(size)));

export const settings = (): Readonly<Settings> => current;

export function updateSettings(update: Partial<Settings>): void {
  current = { ...current, ...update };
  current.fontSize = clampFont(current.fontSize);
  try {
    localStorage.setItem(KEY, JSON.stringify(current));
  } catch {
    // Storage is denied: the change lasts as long as the page.
  }
  for (const listener of listeners) listener(current);
}

/** Calls `listener` now and on every change, until the returned function is called. */
export function watchSettings(listener: (settings: Settings) => void): () => void {
  listeners.add(listener);
  listener(current);
  return () => listeners.delete(listener);
}
