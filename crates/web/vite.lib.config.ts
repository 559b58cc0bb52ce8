// Builds the three library entries into lib/; what a host application has itself stays outside.
import { defineConfig } from "vite";

export default defineConfig({
  publicDir: false,
  build: {
    target: "es2022",
    outDir: "lib",
    minify: false,
    lib: {
      entry: { client: "src/client/index.ts", react: "src/react/index.ts", xterm: "src/xterm/index.ts" },
      formats: ["es"],
    },
    rollupOptions: {
      external: [/^react/, /^@xterm\//],
      // Bundling drops the directive that Next.js looks for.
      output: { banner: ({ name }) => (name === "react" ? '"use client";' : "") },
    },
  },
});
