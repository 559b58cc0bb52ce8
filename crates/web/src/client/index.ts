// @shellbridge/client: the core, without any framework.
export type { ClientFrame, Exit, HistoryEntry, NoticeCode, ServerFrame } from "../protocol.gen";
export { TerminalClient } from "./client";
export type { CommandOptions, CommandResult } from "./commands";
export { readToken } from "./diagnose";
export type { Diagnostics, RoundTrip } from "./diagnostics";
export { TerminalError, type TerminalErrorCode } from "./errors";
export type { OutputSink } from "./output";
export type { ClientEvents, ClientOptions, State, Status } from "./types";
