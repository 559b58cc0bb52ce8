// Builds the three library entries into lib/. React and xterm.js stay external: the application provides them.
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
      // Bundling drops this directive, which Next.js requires.
      output: { banner: ({ name }) => (name === "react" ? '"use client";' : "") },
    },
  },
});
