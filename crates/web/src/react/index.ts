// @shellbridge/client/react: React hooks for the core client.
export { type TerminalHook, type UseTerminalOptions, useTerminal, useTerminalApiGateway } from "./hook.js";
