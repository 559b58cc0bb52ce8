// Writes a .gz next to each compressible file of dist/, so that the backend need not compress at run time.
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";

const dir = "dist";
for (const name of readdirSync(dir, { recursive: true })) {
  if (!/\.(html|js|css|svg|json|txt)$/.test(name)) continue;
  const path = join(dir, name);
  const plain = readFileSync(path);
  const packed = gzipSync(plain, { level: 9 });
  if (packed.length < plain.length) writeFileSync(`${path}.gz`, packed);
}
