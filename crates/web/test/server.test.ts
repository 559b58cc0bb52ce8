// Where there is no browser: importing does nothing, and what needs a browser is not asked for.
import { expect, it } from "vitest";

it("core, hook and binding can be imported without window and document", async () => {
  expect(typeof window).toBe("undefined");
  const core = await import("../src/client");
  const react = await import("../src/react");
  const client = new core.TerminalClient({ url: "wss://host/prod", token: "t", sessionId: "s" });
  expect(client.status.state).toBe("idle");
  expect(typeof react.useTerminalApiGateway).toBe("function");
  client.close();
});
