// @shellbridge/client/xterm: binds a TerminalClient to an xterm.js terminal.
export { type AddonOptions, type Addons, loadAddons } from "./addons.js";
export { type Attached, type AttachOptions, attachTerminal } from "./attach.js";
