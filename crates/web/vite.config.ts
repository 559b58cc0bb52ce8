// Builds the page into dist/, which the Rust crate embeds. Inlines nothing, because the page's CSP forbids it.
import { defineConfig } from "vite";

export default defineConfig({
  base: "./",
  build: {
    target: "es2022",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 700,
  },
  server: {
    // For `npm run dev` next to `make run`: Vite serves the page, the stack everything else.
    proxy: { "/api": "http://127.0.0.1:3001", "/health": "http://127.0.0.1:3001" },
  },
  test: {
    include: ["test/**/*.test.ts", "test/**/*.test.tsx"],
    restoreMocks: true,
  },
} as Parameters<typeof defineConfig>[0]);
