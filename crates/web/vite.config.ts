// Builds the page into dist/, which the Rust crate embeds. Nothing inline: the page's CSP allows no inline script.
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
    // `npm run dev` beside `make run`: the page from Vite, the rest from the stack.
    proxy: { "/api": "http://127.0.0.1:3001", "/health": "http://127.0.0.1:3001" },
  },
  test: {
    include: ["test/**/*.test.ts", "test/**/*.test.tsx"],
    restoreMocks: true,
  },
} as Parameters<typeof defineConfig>[0]);
