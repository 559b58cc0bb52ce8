// The package as it would be published: packed, then looked at by publint and “are the types wrong?”.
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const run = (program, ...args) =>
  execFileSync(program, args, { stdio: ["ignore", "pipe", "inherit"], encoding: "utf8" });
const dir = mkdtempSync(join(tmpdir(), "shellbridge-package-"));
try {
  // prepack builds, and npm prints what that says before its own answer.
  const said = run("npm", "pack", "--json", "--pack-destination", dir);
  const [{ filename, files }] = JSON.parse(said.slice(said.indexOf("\n[\n") + 1));
  const pictures = [...readFileSync("README.md", "utf8").matchAll(/!\[[^\]]*\]\(([^):]+)\)/g)].map(([, path]) => path);
  const missing = ["LICENSE", "README.md", ...pictures].filter((path) => !files.some((file) => file.path === path));
  if (missing.length > 0) throw new Error(`the package lacks ${missing.join(", ")}`);
  const tarball = join(dir, filename);
  run("npx", "publint", "--strict", tarball);
  // ES modules only: what require() and resolution of 2016 make of them is not asked.
  run("npx", "attw", "--profile", "esm-only", tarball);
  console.log(`package: ${files.length} files, publint and attw have nothing to say`);
} finally {
  rmSync(dir, { recursive: true });
}
