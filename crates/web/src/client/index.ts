// @shellbridge/client: the framework-free core.
export type { ClientFrame, Exit, HistoryEntry, NoticeCode, ServerFrame } from "../protocol.gen.js";
export { TerminalClient } from "./client.js";
export type { CommandOptions, CommandResult } from "./commands.js";
export type { Diagnostics, RoundTrip } from "./diagnostics.js";
export { TerminalError, type TerminalErrorCode } from "./errors.js";
export type { OutputSink } from "./output.js";
export { readToken } from "./token.js";
export type { ClientEvents, ClientOptions, State, Status } from "./types.js";
