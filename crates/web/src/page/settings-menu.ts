// The settings as sections of the menu.
import type { MenuSection } from "./menu";
import { settings, updateSettings } from "./settings";

export function settingsSections(): MenuSection[] {
  const { theme, fontSize, screenReader, predict } = settings();
  return [
    {
      title: "Appearance",
      items: [
        {
          label: "Same as system",
          checked: theme === "system",
          stays: true,
          run: () => updateSettings({ theme: "system" }),
        },
        { label: "Light", checked: theme === "light", stays: true, run: () => updateSettings({ theme: "light" }) },
        { label: "Dark", checked: theme === "dark", stays: true, run: () => updateSettings({ theme: "dark" }) },
        {
          label: "Larger text",
          keys: `${fontSize} px`,
          stays: true,
          run: () => updateSettings({ fontSize: fontSize + 1 }),
        },
        { label: "Smaller text", stays: true, run: () => updateSettings({ fontSize: fontSize - 1 }) },
      ],
    },
    {
      title: "Behaviour",
      items: [
        {
          label: "Screen reader mode",
          checked: screenReader,
          stays: true,
          run: () => updateSettings({ screenReader: !screenReader }),
        },
        {
          label: "Predict typing on slow connections",
          checked: predict,
          stays: true,
          run: () => updateSettings({ predict: !predict }),
        },
      ],
    },
  ];
}
