// A scripted WebSocket: the test opens it, delivers messages and closes it.
import type { ClientFrame, ServerFrame } from "../../src/protocol.gen";

export class FakeSocket {
  static all: FakeSocket[] = [];
  static get last(): FakeSocket {
    const socket = FakeSocket.all.at(-1);
    if (!socket) throw new Error("no socket was created");
    return socket;
  }
  /** Called with every new socket, for a scripted server. */
  static onCreate: ((socket: FakeSocket) => void) | undefined;
  static reset(): void {
    FakeSocket.all = [];
    FakeSocket.onCreate = undefined;
  }
  static readonly Class = FakeSocket as unknown as typeof WebSocket;

  readyState = 0;
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: unknown }) => void) | null = null;
  onclose: ((event: { code: number; reason: string }) => void) | null = null;
  sent: ClientFrame[] = [];
  closedWith: number | undefined;
  onSend: ((frame: ClientFrame, text: string) => void) | undefined;
  onClientClose: (() => void) | undefined;

  constructor(
    readonly url: string,
    readonly protocols: string[],
  ) {
    FakeSocket.all.push(this);
    FakeSocket.onCreate?.(this);
  }

  send(text: string): void {
    if (this.readyState !== 1) throw new Error("not open");
    if (new TextEncoder().encode(text).length > 32_768) throw new Error("frame over 32,768 bytes");
    const frame = JSON.parse(text) as ClientFrame;
    this.sent.push(frame);
    this.onSend?.(frame, text);
  }

  close(code?: number): void {
    if (this.readyState >= 2) return;
    this.closedWith = code;
    this.readyState = 3;
    this.onClientClose?.();
  }

  // The server's side.
  open(): void {
    this.readyState = 1;
    this.onopen?.();
  }
  deliver(frame: ServerFrame): void {
    this.deliverText(JSON.stringify(frame));
  }
  deliverText(data: string): void {
    if (this.readyState === 1) this.onmessage?.({ data });
  }
  deliverRaw(data: unknown): void {
    this.onmessage?.({ data });
  }
  /** Closes without calling handlers, as when the page is unloaded. */
  vanish(): void {
    this.onopen = this.onmessage = this.onclose = null;
    this.close();
  }
  cut(code: number, reason = ""): void {
    if (this.readyState === 3) return;
    this.readyState = 3;
    this.onclose?.({ code, reason });
  }

  of<T extends ClientFrame["type"]>(type: T): Extract<ClientFrame, { type: T }>[] {
    return this.sent.filter((frame): frame is Extract<ClientFrame, { type: T }> => frame.type === type);
  }
}
