// @shellbridge/client/xterm: a TerminalClient on an xterm.js terminal.
export { type AddonOptions, type Addons, loadAddons } from "./addons";
export { type Attached, type AttachOptions, attachTerminal } from "./attach";
