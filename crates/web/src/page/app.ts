// The page: tabs, bars, panels, shortcuts.
import { Banner, type BannerAction } from "./banner";
import { commandPanel } from "./command";
import { consent, hostOf } from "./consent";
import { diagnosticsPanel } from "./diagnostics";
import { download, h, iconButton } from "./dom";
import { Drawer, type Panel } from "./drawer";
import { Menu, type MenuSection } from "./menu";
import { SearchBar } from "./search";
import { ApiError, devSession, readFragment, type Session, writeFragment } from "./session";
import { settingsSections } from "./settings-menu";
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
  #banner = new Banner();
  #drawer = new Drawer(() => this.focus());
  #search = new SearchBar(() => this.#active);
  #touch = new TouchKeys(() => this.#active);
  #menu = new Menu(
    () => this.#menuSections(),
    () => this.focus(),
  );
  #run = iconButton("run", "Run a command", () => this.#togglePanel(commandPanel(() => this.#active)));
  #share = iconButton("share", "Share a read-only link", () =>
    this.#togglePanel(sharePanel(() => this.#active, copyText)),
  );
  #status = new StatusLine({
    diagnostics: () => this.#togglePanel(diagnosticsPanel(() => this.#active, copyText)),
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
    const stage = h("main", { class: "stage" }, this.#panes, this.#search.element, this.#banner.element, toastRegion);
    root.append(
      bar,
      this.#menu.element,
      h("div", { class: "middle" }, stage, this.#drawer.element),
      this.#touch.element,
      this.#status.element,
    );
    document.addEventListener("keydown", (event) => this.#shortcut(event), true);
    addEventListener("hashchange", () => void this.#openLink());
    document.addEventListener("securitypolicyviolation", (event) => this.#handleViolation(event));
    // A phone's keyboard shrinks the visual viewport, not the page.
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
      this.#render();
      const selected = sessions[active];
      const accepted = await consent(sessions, false);
      for (const session of accepted) this.#open(session);
      if (accepted.length > 0) this.show(this.tabs[selected ? accepted.indexOf(selected) : 0] ?? this.tabs[0]);
      else this.#showEmpty();
    }
    this.#starting = false;
  }

  /** Opens a new session in a new tab, if the server allows it to everyone. */
  async add(): Promise<void> {
    try {
      const session = await devSession();
      this.show(this.#open(session));
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      const linkOnly = error.status === 404 || error.status === 403 || error.status === 401;
      const text = linkOnly ? "This server opens sessions by link only. Open the link you were given." : error.message;
      if (this.tabs.length > 0) toast(text, "bad");
      else this.#banner.show("No session", text, [["Try again", () => void this.start()]]);
    }
  }

  /** `stay`: keep the focus in the tab strip. */
  show(tab: Tab | undefined, stay = false): void {
    this.#active = tab;
    this.#search.close();
    for (const other of this.tabs) other.pane.hidden = other !== tab;
    this.#render();
    this.#saveFragment();
    tab?.binding.refit();
    if (tab && stay) this.#strip.focus(tab);
    else this.focus();
  }

  close(tab: Tab): void {
    const at = this.tabs.indexOf(tab);
    this.tabs = this.tabs.filter((other) => other !== tab);
    tab.close();
    if (this.tabs.length === 0) this.#showEmpty();
    else
      this.show(this.#active === tab ? (this.tabs[Math.min(at, this.tabs.length - 1)] ?? this.tabs[0]) : this.#active);
  }

  focus(): void {
    this.#active?.terminal.focus();
  }

  #open(session: Session): Tab {
    const tab = new Tab(session, {
      changed: () => this.#render(),
      session: () => this.#saveFragment(),
      typed: (text) => this.#touch.translate(text),
    });
    this.tabs.push(tab);
    this.#panes.append(tab.pane);
    tab.open();
    return tab;
  }

  /** Saves the sessions in the URL, which a reload restores. */
  #saveFragment(): void {
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

  #showEmpty(title = "No terminal is open", text = ""): void {
    this.#active = undefined;
    history.replaceState(null, "", location.pathname + location.search);
    this.#render();
    this.#banner.show(title, text, [["New session", () => void this.add()]]);
  }

  /** The #fragment changed: the user, or another page, opened a link in this page. */
  async #openLink(): Promise<void> {
    const [first] = readFragment(location.hash).sessions;
    if (!first) return;
    const known = this.tabs.find(
      (tab) => tab.session.sessionId === first.sessionId && tab.session.token === first.token,
    );
    if (known) return this.show(known);
    const adds = this.#starting || this.tabs.length > 0;
    if (this.tabs.length > 0) this.#saveFragment(); // until the user consents, a reload restores the current tabs
    const [session] = await consent([first], adds);
    if (session) this.show(this.#open(session));
    else if (this.tabs.length === 0) this.#showEmpty();
  }

  /** The server's Content-Security-Policy limits the hosts that the page can connect to, even with consent. */
  #handleViolation({ effectiveDirective, blockedURI }: SecurityPolicyViolationEvent): void {
    if (effectiveDirective !== "connect-src") return;
    const host = hostOf(blockedURI);
    for (const tab of this.tabs.filter(({ session }) => hostOf(session.url) === host)) this.close(tab);
    const title = "This server does not allow that address";
    const text = `The page may not connect to ${host}. The server’s operator sets the allowed address in WS_URL.`;
    if (this.tabs.length > 0) toast(`${title}. ${text}`, "bad");
    else this.#showEmpty(title, text);
  }

  #render(): void {
    const tab = this.#active;
    this.#strip.draw(this.tabs, tab);
    this.#status.element.hidden = !tab;
    this.#status.show(tab);
    const name = tab ? tabName(tab, this.tabs.indexOf(tab)) : "";
    document.title = name ? `${name} · Shellbridge` : "Shellbridge";
    this.#run.hidden = this.#share.hidden = !tab || tab.client.status.readOnly;
    if (!tab) return;
    const { state, error } = tab.client.status;
    const renew: BannerAction = ["New session", () => void this.#replace(tab)];
    const retry: BannerAction = ["Reconnect", () => tab.client.reconnect()];
    if (state === "ended" || (tab.exit && state === "connected"))
      this.#banner.show("This session has ended", tab.exit ?? "", [renew]);
    else if (state !== "failed") this.#banner.hide();
    else if (error?.code === "REPLACED") {
      this.#banner.show("This terminal is open in another window", "", [["Use it here", () => tab.client.reconnect()]]);
    } else if (error?.code === "SESSION_INVALID" || error?.code === "SESSION_EXPIRED") {
      this.#banner.show("This session has ended", error.message, [renew]);
    } else this.#banner.show("Not connected", error?.message ?? "", [retry]);
  }

  async #replace(tab: Tab): Promise<void> {
    try {
      await tab.replace();
    } catch (error) {
      toast(error instanceof Error ? error.message : String(error), "bad");
    }
  }

  #togglePanel(panel: Panel): void {
    if (this.#drawer.title === panel.title) {
      panel.closed?.();
      this.#drawer.close();
    } else this.#drawer.open(panel);
  }

  #menuSections(): MenuSection[] {
    const tab = this.#active;
    const noTab = !tab;
    const readOnly = !tab || tab.client.status.readOnly;
    return [
      {
        items: [
          {
            label: "Copy",
            keys: "Ctrl+Shift+C",
            disabled: !tab?.terminal.hasSelection(),
            run: () => void this.#copy(),
          },
          { label: "Paste", keys: "Ctrl+Shift+V", disabled: noTab, run: () => void this.#paste() },
          { label: "Select all", disabled: noTab, run: () => tab?.terminal.selectAll() },
          { label: "Find…", keys: "Ctrl+Shift+F", disabled: noTab, run: () => this.#search.open() },
        ],
      },
      {
        items: [
          {
            label: "Run a command…",
            disabled: readOnly,
            run: () => this.#togglePanel(commandPanel(() => this.#active)),
          },
          {
            label: "Share a read-only link…",
            disabled: readOnly,
            run: () => this.#togglePanel(sharePanel(() => this.#active, copyText)),
          },
          { label: "Download recording", disabled: noTab, run: () => this.#download() },
          {
            label: "Diagnostics",
            disabled: noTab,
            run: () => this.#togglePanel(diagnosticsPanel(() => this.#active, copyText)),
          },
          { label: "Reconnect", disabled: noTab, run: () => tab?.client.reconnect() },
          { label: "New session", run: () => void this.add() },
          { label: "Close tab", disabled: noTab, run: () => tab && this.close(tab) },
        ],
      },
      ...settingsSections(),
    ];
  }

  async #copy(): Promise<void> {
    const text = this.#active?.terminal.getSelection();
    if (text && (await copyText(text))) this.#active?.terminal.clearSelection();
  }

  async #paste(): Promise<void> {
    const tab = this.#active;
    try {
      const text = await navigator.clipboard.readText();
      tab?.terminal.paste(text);
    } catch {
      toast("The browser does not let the page read the clipboard. Use the browser’s paste.", "bad");
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

async function copyText(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    toast("The browser does not let the page use the clipboard.", "bad");
    return false;
  }
}
