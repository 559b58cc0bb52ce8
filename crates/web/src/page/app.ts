// The page as a whole: tabs, bars, panels, shortcuts.
import { admit, hostOf } from "./admit";
import { commandPanel } from "./command";
import { download, h, iconButton } from "./dom";
import { Drawer, type Panel } from "./drawer";
import { Menu, type MenuSection } from "./menu";
import { diagnosticsPanel } from "./panel";
import { SearchBar } from "./search";
import { ApiError, devSession, readFragment, type Session, writeFragment } from "./session";
import { change, settings } from "./settings";
import { sharePanel } from "./share";
import { StatusLine } from "./status";
import { Tab } from "./tab";
import { TabStrip, tabName } from "./tabstrip";
import { toast, toastRegion } from "./toast";
import { TouchKeys } from "./touch";

export class App {
  tabs: Tab[] = [];
  #active: Tab | undefined;
  #starting = true;
  #strip = new TabStrip({ show: (tab, stay) => this.show(tab, stay), close: (tab) => this.close(tab) });
  #panes = h("div", { class: "panes" });
  #banner = h("div", { class: "banner", hidden: true, attrs: { role: "alert" } });
  #drawer = new Drawer(() => this.focus());
  #search = new SearchBar(() => this.#active);
  #touch = new TouchKeys(() => this.#active);
  #menu = new Menu(
    () => this.#sections(),
    () => this.focus(),
  );
  #run = iconButton("run", "Run a command", () => this.#panel(commandPanel(() => this.#active)));
  #share = iconButton("share", "Share a read-only link", () => this.#panel(sharePanel(() => this.#active, copy)));
  #status = new StatusLine({
    diagnostics: () => this.#panel(diagnosticsPanel(() => this.#active, copy)),
    reconnect: () => {
      this.#active?.client.reconnect();
      this.focus();
    },
    extend: () => {
      void this.#active?.extend();
      this.focus();
    },
  });

  constructor(root: HTMLElement) {
    const bar = h(
      "header",
      { class: "bar" },
      this.#strip.element,
      iconButton("plus", "New session", () => void this.add()),
      h("span", { class: "space" }),
      this.#run,
      iconButton("search", "Find (Ctrl+Shift+F)", () => this.#search.open()),
      this.#share,
      this.#menu.button,
    );
    const stage = h("main", { class: "stage" }, this.#panes, this.#search.element, this.#banner, toastRegion);
    root.append(
      bar,
      this.#menu.element,
      h("div", { class: "middle" }, stage, this.#drawer.element),
      this.#touch.element,
      this.#status.element,
    );
    document.addEventListener("keydown", (event) => this.#shortcut(event), true);
    addEventListener("hashchange", () => void this.#fromAddress());
    document.addEventListener("securitypolicyviolation", (event) => this.#forbidden(event));
    // A phone's keyboard takes from the visual viewport, not from the page.
    visualViewport?.addEventListener("resize", () => {
      document.documentElement.style.setProperty("--height", `${visualViewport?.height ?? innerHeight}px`);
    });
  }

  get active(): Tab | undefined {
    return this.#active;
  }

  async start(): Promise<void> {
    const { sessions, active } = readFragment(location.hash);
    if (sessions.length === 0) await this.add();
    else {
      this.#draw();
      const front = sessions[active];
      const admitted = await admit(sessions, false);
      for (const session of admitted) this.#open(session);
      if (admitted.length > 0) this.show(this.tabs[front ? admitted.indexOf(front) : 0] ?? this.tabs[0]);
      else this.#empty();
    }
    this.#starting = false;
  }

  /** A new session in a new tab, where the server gives them to anybody. */
  async add(): Promise<void> {
    try {
      const session = await devSession();
      this.show(this.#open(session));
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      const refused = error.status === 404 || error.status === 403 || error.status === 401;
      const text = refused ? "This server opens sessions by link only. Open the link you were given." : error.message;
      if (this.tabs.length > 0) toast(text, "bad");
      else this.#say("No session", text, [["Try again", () => void this.start()]]);
    }
  }

  /** `stay`: the focus is to remain among the tabs. */
  show(tab: Tab | undefined, stay = false): void {
    this.#active = tab;
    this.#search.close();
    for (const other of this.tabs) other.pane.hidden = other !== tab;
    this.#draw();
    this.#remember();
    tab?.binding.refit();
    if (tab && stay) this.#strip.focus(tab);
    else this.focus();
  }

  close(tab: Tab): void {
    const at = this.tabs.indexOf(tab);
    this.tabs = this.tabs.filter((other) => other !== tab);
    tab.close();
    if (this.tabs.length === 0) this.#empty();
    else
      this.show(this.#active === tab ? (this.tabs[Math.min(at, this.tabs.length - 1)] ?? this.tabs[0]) : this.#active);
  }

  focus(): void {
    this.#active?.terminal.focus();
  }

  #open(session: Session): Tab {
    const tab = new Tab(session, {
      changed: () => this.#draw(),
      session: () => this.#remember(),
      typed: (text) => this.#touch.translate(text),
    });
    this.tabs.push(tab);
    this.#panes.append(tab.pane);
    tab.open();
    return tab;
  }

  /** The address is what a reload goes by. */
  #remember(): void {
    const active = this.#active ? this.tabs.indexOf(this.#active) : 0;
    history.replaceState(
      null,
      "",
      writeFragment(
        this.tabs.map((tab) => tab.session),
        active,
      ),
    );
  }

  #empty(title = "No terminal is open", text = ""): void {
    this.#active = undefined;
    history.replaceState(null, "", location.pathname + location.search);
    this.#draw();
    this.#say(title, text, [["New session", () => void this.add()]]);
  }

  /** Another link came over this one: pasted by somebody, or put there by another page. */
  async #fromAddress(): Promise<void> {
    const [first] = readFragment(location.hash).sessions;
    if (!first) return;
    const known = this.tabs.find(
      (tab) => tab.session.sessionId === first.sessionId && tab.session.token === first.token,
    );
    if (known) return this.show(known);
    const adds = this.#starting || this.tabs.length > 0;
    if (this.tabs.length > 0) this.#remember(); // Until it is admitted, a reload is of what is here.
    const [session] = await admit([first], adds);
    if (session) this.show(this.#open(session));
    else if (this.tabs.length === 0) this.#empty();
  }

  /** The server's policy names the hosts that the page may connect to, whatever its user agrees to. */
  #forbidden({ effectiveDirective, blockedURI }: SecurityPolicyViolationEvent): void {
    if (effectiveDirective !== "connect-src") return;
    const host = hostOf(blockedURI);
    for (const tab of this.tabs.filter(({ session }) => hostOf(session.url) === host)) this.close(tab);
    const title = "This server does not allow that address";
    const text = `Its page may not connect to ${host}. Whoever runs the server allows one address, in WS_URL.`;
    if (this.tabs.length > 0) toast(`${title}. ${text}`, "bad");
    else this.#empty(title, text);
  }

  #draw(): void {
    const tab = this.#active;
    this.#strip.draw(this.tabs, tab);
    this.#status.element.hidden = !tab;
    this.#status.show(tab);
    const name = tab ? tabName(tab, this.tabs.indexOf(tab)) : "";
    document.title = name ? `${name} · Shellbridge` : "Shellbridge";
    this.#run.hidden = this.#share.hidden = !tab || tab.client.status.readOnly;
    if (!tab) return;
    const { state, error } = tab.client.status;
    const again: [string, () => void] = ["New session", () => void this.#replace(tab)];
    const retry: [string, () => void] = ["Reconnect", () => tab.client.reconnect()];
    if (state === "ended" || (tab.exit && state === "connected"))
      this.#say("This session has ended", tab.exit ?? "", [again]);
    else if (state !== "failed") this.#banner.hidden = true;
    else if (error?.code === "REPLACED") {
      this.#say("This terminal is open in another window", "", [["Use it here", () => tab.client.reconnect()]]);
    } else if (error?.code === "SESSION_INVALID" || error?.code === "SESSION_EXPIRED") {
      this.#say("This session has ended", error.message, [again]);
    } else this.#say("Not connected", error?.message ?? "", [retry]);
  }

  async #replace(tab: Tab): Promise<void> {
    try {
      await tab.replace();
    } catch (error) {
      toast(error instanceof Error ? error.message : String(error), "bad");
    }
  }

  #say(title: string, text: string, actions: [string, () => void][]): void {
    const key = title + text;
    if (!this.#banner.hidden && this.#banner.dataset.key === key) return;
    this.#banner.dataset.key = key;
    this.#banner.hidden = false;
    this.#banner.replaceChildren(
      h("h2", {}, title),
      text && h("p", {}, sentence(text)),
      h(
        "div",
        { class: "row" },
        ...actions.map(([label, run]) => h("button", { type: "button", class: "button primary", onclick: run }, label)),
      ),
    );
    this.#banner.querySelector("button")?.focus();
  }

  #panel(panel: Panel): void {
    if (this.#drawer.title === panel.title) {
      panel.closed?.();
      this.#drawer.close();
    } else this.#drawer.open(panel);
  }

  #sections(): MenuSection[] {
    const tab = this.#active;
    const { theme, fontSize, screenReader, predict } = settings();
    const none = !tab;
    const watching = !tab || tab.client.status.readOnly;
    return [
      {
        items: [
          {
            label: "Copy",
            keys: "Ctrl+Shift+C",
            disabled: !tab?.terminal.hasSelection(),
            run: () => void this.#copy(),
          },
          { label: "Paste", keys: "Ctrl+Shift+V", disabled: none, run: () => void this.#paste() },
          { label: "Select all", disabled: none, run: () => tab?.terminal.selectAll() },
          { label: "Find…", keys: "Ctrl+Shift+F", disabled: none, run: () => this.#search.open() },
        ],
      },
      {
        items: [
          { label: "Run a command…", disabled: watching, run: () => this.#panel(commandPanel(() => this.#active)) },
          {
            label: "Share a read-only link…",
            disabled: watching,
            run: () => this.#panel(sharePanel(() => this.#active, copy)),
          },
          { label: "Download recording", disabled: none, run: () => this.#download() },
          { label: "Diagnostics", disabled: none, run: () => this.#panel(diagnosticsPanel(() => this.#active, copy)) },
          { label: "Reconnect", disabled: none, run: () => tab?.client.reconnect() },
          { label: "New session", run: () => void this.add() },
          { label: "Close session’s tab", disabled: none, run: () => tab && this.close(tab) },
        ],
      },
      {
        title: "Appearance",
        items: [
          { label: "Same as system", checked: theme === "system", stays: true, run: () => change({ theme: "system" }) },
          { label: "Light", checked: theme === "light", stays: true, run: () => change({ theme: "light" }) },
          { label: "Dark", checked: theme === "dark", stays: true, run: () => change({ theme: "dark" }) },
          { label: "Larger text", keys: `${fontSize} px`, stays: true, run: () => change({ fontSize: fontSize + 1 }) },
          { label: "Smaller text", stays: true, run: () => change({ fontSize: fontSize - 1 }) },
        ],
      },
      {
        title: "Behaviour",
        items: [
          {
            label: "Screen reader mode",
            checked: screenReader,
            stays: true,
            run: () => change({ screenReader: !screenReader }),
          },
          {
            label: "Predict typing on slow lines",
            checked: predict,
            stays: true,
            run: () => change({ predict: !predict }),
          },
        ],
      },
    ];
  }

  async #copy(): Promise<void> {
    const text = this.#active?.terminal.getSelection();
    if (text && (await copy(text))) this.#active?.terminal.clearSelection();
  }

  async #paste(): Promise<void> {
    const tab = this.#active;
    try {
      const text = await navigator.clipboard.readText();
      tab?.terminal.paste(text);
    } catch {
      toast("The browser does not let the page read the clipboard. Use its own paste.", "bad");
    }
    this.focus();
  }

  #download(): void {
    const tab = this.#active;
    if (!tab) return;
    const stamp = new Date().toISOString().slice(0, 19).replace(/[:T]/g, "-");
    download(`shellbridge-${stamp}.cast`, "application/x-asciicast", [tab.recorder.cast(tab.title || "Shellbridge")]);
  }

  #shortcut(event: KeyboardEvent): void {
    if (!event.ctrlKey || !event.shiftKey || event.altKey || event.metaKey) return;
    const run = {
      KeyF: () => this.#search.open(),
      KeyC: () => void this.#copy(),
      KeyV: () => void this.#paste(),
      Space: () => this.#menu.toggle(),
    }[event.code];
    if (!run) return;
    event.preventDefault();
    event.stopPropagation();
    run();
  }
}

/** The server's messages are parts of log lines. */
const sentence = (text: string) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

async function copy(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    toast("The browser does not let the page use the clipboard.", "bad");
    return false;
  }
}
