// @shellbridge/client/xterm: a TerminalClient on an xterm.js terminal.
export { type Addons, type AddonOptions, loadAddons } from "./addons";
export { type Attached, type AttachOptions, attachTerminal } from "./attach";
