// Loads the xterm.js addons: fit, links, Unicode 11 widths, WebGL where it helps, search, clipboard.
import { ClipboardAddon, type IClipboardProvider } from "@xterm/addon-clipboard";
import { FitAddon } from "@xterm/addon-fit";
import { SearchAddon } from "@xterm/addon-search";
import { Unicode11Addon } from "@xterm/addon-unicode11";
import { WebLinksAddon } from "@xterm/addon-web-links";
import { WebglAddon } from "@xterm/addon-webgl";
import type { Terminal } from "@xterm/xterm";

export interface AddonOptions {
  /**
   * Called when a program in the shell writes to the clipboard (OSC 52); should ask the user. Without it, such writes
   * are ignored. Programs can never read the clipboard.
   */
  allowClipboard?: (text: string) => unknown;
  /** Whether to use WebGL if the browser accelerates it; default true. */
  webgl?: boolean;
  /** Default: opens the link in a new tab, without an opener. */
  openLink?: (event: MouseEvent, uri: string) => void;
}

export interface Addons {
  fit: FitAddon;
  search: SearchAddon;
  /** The renderer in use. */
  readonly renderer: "webgl" | "dom";
}

export function loadAddons(terminal: Terminal, options: AddonOptions): Addons & { dispose(): void } {
  terminal.options.allowProposedApi = true; // covers Unicode versions and decorations
  const fit = new FitAddon();
  const search = new SearchAddon();
  const unicode = new Unicode11Addon();
  const links = new WebLinksAddon(options.openLink);
  // The provider returns no promises: xterm's parser would await them and block the screen.
  const provider: IClipboardProvider = {
    readText: () => "",
    writeText: (_selection, text) => {
      if (text) options.allowClipboard?.(text);
    },
  };
  const clipboard = new ClipboardAddon(undefined, provider);
  const all = [fit, search, unicode, links, clipboard];
  for (const addon of all) terminal.loadAddon(addon);
  terminal.unicode.activeVersion = "11";

  let webgl = options.webgl === false ? undefined : loadWebgl(terminal, () => (webgl = undefined));
  return {
    fit,
    search,
    get renderer() {
      return webgl ? ("webgl" as const) : ("dom" as const);
    },
    dispose() {
      webgl?.dispose();
      for (const addon of all) addon.dispose();
    },
  };
}

/** Loads WebGL. If the browser takes the context away, xterm falls back to its DOM renderer. */
function loadWebgl(terminal: Terminal, lost: () => void): WebglAddon | undefined {
  if (!supportsWebgl2()) return undefined;
  try {
    const addon = new WebglAddon();
    addon.onContextLoss(() => {
      addon.dispose();
      lost();
    });
    terminal.loadAddon(addon);
    return addon;
  } catch {
    return undefined;
  }
}

/** Whether WebGL 2 runs on hardware; in software it is slower than the DOM renderer. */
function supportsWebgl2(): boolean {
  try {
    const gl = document.createElement("canvas").getContext("webgl2", { failIfMajorPerformanceCaveat: true });
    if (!gl) return false;
    const info = gl.getExtension("WEBGL_debug_renderer_info");
    const renderer = String(gl.getParameter(info ? info.UNMASKED_RENDERER_WEBGL : gl.RENDERER));
    gl.getExtension("WEBGL_lose_context")?.loseContext();
    return !/swiftshader|llvmpipe|softpipe|software|basic render/i.test(renderer);
  } catch {
    return false;
  }
}
