// Without a browser, as on a Next.js server: imports have no effect and use no browser API.
import { expect, it } from "vitest";

it("the core and the hooks load without window and document", async () => {
  expect(typeof window).toBe("undefined");
  const core = await import("../src/client");
  const react = await import("../src/react");
  const client = new core.TerminalClient({ url: "wss://host/prod", token: "t", sessionId: "s" });
  expect(client.status.state).toBe("idle");
  expect(typeof react.useTerminalApiGateway).toBe("function");
  client.close();
});
