// Builds the session state machine as a WebAssembly module for the tests. Needs Rust's wasm32 target.
import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";

const TARGET = "wasm32-unknown-unknown";
const root = join(import.meta.dirname, "../../..");
const run = (program, ...args) => execFileSync(program, args, { cwd: root, stdio: "inherit" });
const fail = (message) => {
  console.error(`session module: ${message}`);
  process.exit(1);
};

try {
  const libraries = execFileSync("rustc", ["--print", "target-libdir", "--target", TARGET], { cwd: root });
  if (!existsSync(libraries.toString().trim())) run("rustup", "target", "add", TARGET);
} catch (error) {
  fail(`Rust's target ${TARGET} is missing; with rustup: rustup target add ${TARGET} (${error.message})`);
}
try {
  // test/support/session.ts expects the module in target/, so override CARGO_TARGET_DIR.
  run("cargo", "build", "--quiet", "-p", "shellbridge-session-wasm", "--target", TARGET, "--target-dir", "target");
} catch (error) {
  fail(error.message);
}
