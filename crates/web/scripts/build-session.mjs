// Builds the session's state machine as the WebAssembly module that the tests drive. Needs Rust's wasm32 target.
import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";

const TARGET = "wasm32-unknown-unknown";
const root = join(import.meta.dirname, "../../..");
const run = (program, ...args) => execFileSync(program, args, { cwd: root, stdio: "inherit" });
const fail = (why) => {
  console.error(`session module: ${why}`);
  process.exit(1);
};

try {
  const libraries = execFileSync("rustc", ["--print", "target-libdir", "--target", TARGET], { cwd: root });
  if (!existsSync(libraries.toString().trim())) run("rustup", "target", "add", TARGET);
} catch (error) {
  fail(`Rust's target ${TARGET} is missing; with rustup: rustup target add ${TARGET} (${error.message})`);
}
try {
  // Where test/support/session.ts looks for it, whatever CARGO_TARGET_DIR says.
  run("cargo", "build", "--quiet", "-p", "shellbridge-session-wasm", "--target", TARGET, "--target-dir", "target");
} catch (error) {
  fail(error.message);
}
