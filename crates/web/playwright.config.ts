// End-to-end tests: the page in a real Chromium against the real gateway, function and backend.
import { existsSync } from "node:fs";
import { defineConfig } from "@playwright/test";

const SYSTEM_CHROMIUM = "/usr/bin/chromium";

export default defineConfig({
  testDir: "e2e",
  outputDir: "test-results/playwright",
  workers: 1, // one stack at a time, because the tests measure time
  timeout: 60_000,
  expect: { timeout: 15_000 },
  forbidOnly: true,
  reporter: "list",
  use: {
    viewport: { width: 1100, height: 700 },
    colorScheme: "dark",
    permissions: ["clipboard-read", "clipboard-write"],
    launchOptions: {
      // Debian's Chromium if installed; otherwise Playwright's (`npx playwright install chromium`).
      ...(existsSync(SYSTEM_CHROMIUM) && { executablePath: SYSTEM_CHROMIUM }),
      args: [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
      ],
    },
  },
});
