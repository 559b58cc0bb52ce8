// Checks the built library as a Next.js server loads it: through its exports, without a window.
import { readFileSync } from "node:fs";

const fail = (message) => {
  console.error(`library: ${message}`);
  process.exit(1);
};

const { TerminalClient, TerminalError } = await import("@shellbridge/client");
const { useTerminalApiGateway, useTerminal } = await import("@shellbridge/client/react");
for (const [name, value] of Object.entries({ TerminalClient, TerminalError, useTerminalApiGateway, useTerminal })) {
  if (typeof value !== "function") fail(`${name} is missing`);
}
if (!readFileSync("lib/react.js", "utf8").startsWith('"use client";'))
  fail("react.js does not begin with “use client”");
const { exports } = JSON.parse(readFileSync("package.json", "utf8"));
for (const { types, default: code } of Object.values(exports)) for (const file of [types, code]) readFileSync(file);
