// @shellbridge/client/react: React hooks over the core client.
export { type TerminalHook, type UseTerminalOptions, useTerminal, useTerminalApiGateway } from "./hook.js";
