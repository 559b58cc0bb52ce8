// Checks the packed package with publint and “Are the types wrong?”.
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const run = (program, ...args) =>
  execFileSync(program, args, { stdio: ["ignore", "pipe", "inherit"], encoding: "utf8" });
const dir = mkdtempSync(join(tmpdir(), "shellbridge-package-"));
try {
  // npm prints the output of prepack before its JSON.
  const stdout = run("npm", "pack", "--json", "--pack-destination", dir);
  const [{ filename, files }] = JSON.parse(stdout.slice(stdout.indexOf("\n[\n") + 1));
  const pictures = [...readFileSync("README.md", "utf8").matchAll(/!\[[^\]]*\]\(([^):]+)\)/g)].map(([, path]) => path);
  const missing = ["LICENSE", "README.md", ...pictures].filter((path) => !files.some((file) => file.path === path));
  if (missing.length > 0) throw new Error(`the package lacks ${missing.join(", ")}`);
  const tarball = join(dir, filename);
  run("npx", "publint", "--strict", tarball);
  // The package has ES modules only, so skip the checks of require() and of node10 resolution.
  run("npx", "attw", "--profile", "esm-only", tarball);
  console.log(`package: ${files.length} files, no findings by publint and attw`);
} finally {
  rmSync(dir, { recursive: true });
}
