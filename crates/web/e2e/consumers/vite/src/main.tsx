import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import TerminalView from "./terminal.js";

const query = new URLSearchParams(location.hash.slice(1));
const [url, sessionId, token] = ["url", "sessionId", "token"].map((name) => query.get(name) ?? "") as [
  string,
  string,
  string,
];

createRoot(document.getElementById("root") as HTMLElement).render(
  <StrictMode>
    <TerminalView url={url} sessionId={sessionId} token={token} />
  </StrictMode>,
);
