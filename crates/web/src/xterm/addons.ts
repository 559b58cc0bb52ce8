// The xterm.js addons of a good terminal: fit, links, Unicode 11 widths, WebGL where it works, search, clipboard.
import { ClipboardAddon, type IClipboardProvider } from "@xterm/addon-clipboard";
import { FitAddon } from "@xterm/addon-fit";
import { SearchAddon } from "@xterm/addon-search";
import { Unicode11Addon } from "@xterm/addon-unicode11";
import { WebLinksAddon } from "@xterm/addon-web-links";
import { WebglAddon } from "@xterm/addon-webgl";
import type { Terminal } from "@xterm/xterm";

export interface AddonOptions {
  /**
   * A program in the shell wants to put this on the clipboard (OSC 52): ask the user. Without it, nothing is put
   * there. Programs never get to read the clipboard.
   */
  allowClipboard?: (text: string) => unknown;
  /** Default true; false keeps to the DOM renderer. */
  webgl?: boolean;
  /** Default: opens a new tab without opener. */
  openLink?: (event: MouseEvent, uri: string) => void;
}

export interface Addons {
  fit: FitAddon;
  search: SearchAddon;
  /** Which renderer is at work. */
  readonly renderer: "webgl" | "dom";
}

export function loadAddons(terminal: Terminal, options: AddonOptions): Addons & { dispose(): void } {
  terminal.options.allowProposedApi = true; // Unicode versions and decorations are “proposed” in xterm's words.
  const fit = new FitAddon();
  const search = new SearchAddon();
  const unicode = new Unicode11Addon();
  const links = new WebLinksAddon(options.openLink);
  // Nothing here returns a promise: xterm's parser would wait for it, and the screen would stand still meanwhile.
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

/** WebGL, until the browser takes the context away; then xterm falls back to its DOM renderer. */
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

/** WebGL in software is slower than the DOM renderer, so it does not count. */
function supportsWebgl2(): boolean {
  try {
    const gl = document.createElement("canvas").getContext("webgl2", { failIfMajorPerformanceCaveat: true });
    if (!gl) return false;
    const about = gl.getExtension("WEBGL_debug_renderer_info");
    const renderer = String(gl.getParameter(about ? about.UNMASKED_RENDERER_WEBGL : gl.RENDERER));
    gl.getExtension("WEBGL_lose_context")?.loseContext();
    return !/swiftshader|llvmpipe|softpipe|software|basic render/i.test(renderer);
  } catch {
    return false;
  }
}
