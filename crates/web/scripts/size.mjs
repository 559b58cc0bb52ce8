// Fails if the core client, minified and gzipped, exceeds its budget. Part of lint, so that builds never fail over size.
import { gzipSync } from "node:zlib";
import { build } from "vite";

const BUDGET = 9000;
const result = await build({
  configFile: false,
  logLevel: "error",
  publicDir: false,
  build: {
    target: "es2022",
    write: false,
    minify: true,
    rollupOptions: { input: "src/client/index.ts", preserveEntrySignatures: "strict", output: { format: "es" } },
  },
});
const [output] = [result].flat();
const code = output.output.map((chunk) => ("code" in chunk ? chunk.code : "")).join("");
const size = gzipSync(code, { level: 9 }).length;
console.log(`core client: ${size} of ${BUDGET} bytes gzipped (${code.length} minified)`);
if (size > BUDGET) process.exit(1);
