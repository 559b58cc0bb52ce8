// The two byte streams over whatever connection there is: attach, acks, retransmission, size (crates/protocol/README.md 3).
import type { Exit, ServerFrame } from "../protocol.gen.js";
import { decodePayload, encodePayload } from "./bytes.js";
import type { Connection } from "./connection.js";
import { InputSender } from "./input.js";
import {
  ATTACH_RETRY,
  INPUT_COALESCE,
  INPUT_RETRY,
  INPUT_RETRY_MAX,
  OUTPUT_ACK_EVERY,
  OUTPUT_ACK_WITHIN,
  OUTPUT_HOLE_AFTER,
  REPEAT_ACK_SPACING,
  RESIZE_RETRY,
} from "./limits.js";
import { OutputReceiver, type OutputSink } from "./output.js";
import { Timers } from "./timers.js";

type Frame<T extends ServerFrame["type"]> = Extract<ServerFrame, { type: T }>;

export interface StreamEvents {
  sink(): OutputSink;
  /** A new shell: `discarded` bytes of input were meant for the old one. */
  restart(discarded: number): void;
  gap(bytes: number): void;
  exit(exit: Exit): void;
  /** The server knows another stream by our name: `rename()` is to be called with a new one. */
  forgotten(): void;
}

export class Streams {
  readonly output: OutputReceiver;
  readonly input = new InputSender();
  readonly timers = new Timers();
  clientId = "";
  cols = 80;
  rows = 24;
  readOnly = false;
  /** The attached connection, which carries what we send. */
  line: Connection | undefined;
  /** A connection that was asked to attach. Input waits for its answer. */
  #joining: Connection | undefined;
  #ackSent = 0;
  #ackedAt = Number.NEGATIVE_INFINITY;
  #unackedSince: number | undefined;
  #inputSentAt = Number.NEGATIVE_INFINITY;
  #inputWait = INPUT_RETRY;
  #resizeWait = RESIZE_RETRY;
  #exit: { offset: number | undefined; exit: Exit } | undefined;
  #exited = false; // and said so, on this connection

  constructor(
    private readonly events: StreamEvents,
    private readonly roundTrip: () => number,
  ) {
    this.output = new OutputReceiver(events.sink, () => this.#consumed(), events.gap);
  }

  /** Asks `connection` to carry the streams, every 2 s until it does. */
  attach(connection: Connection): void {
    if (this.#joining !== connection && this.line !== connection) this.input.mark();
    this.#joining = connection;
    connection.attached = false;
    connection.cols = this.cols;
    connection.rows = this.rows;
    const { epoch, next } = this.output;
    connection.send({
      type: "attach",
      clientId: this.clientId,
      cols: this.cols,
      rows: this.rows,
      epoch, // undefined is left out of JSON
      outputOffset: epoch && next,
      seq: ++connection.seq,
    });
    this.timers.set("attach", ATTACH_RETRY, () => this.attach(connection));
  }

  /** Takes up `connection` if this is the answer to its `attach`. */
  attached(connection: Connection, frame: Frame<"attached">): boolean {
    const { epoch, exit } = frame;
    if (connection !== this.#joining || (this.output.epoch ?? 0) > epoch) return false;
    this.#joining = undefined;
    this.timers.clear("attach");
    connection.attached = true;
    this.line = connection;
    this.readOnly = frame.readOnly;
    this.#enter(epoch);
    this.#ackSent = this.output.consumed;
    if (exit && !this.#exit && !this.#exited) this.#exit = { offset: undefined, exit };
    if (this.readOnly) this.input.discard();
    else if (!this.input.resume(frame.inputOffset)) {
      this.events.forgotten();
      return false;
    }
    if (connection.cols !== this.cols || connection.rows !== this.rows) this.resize(this.cols, this.rows);
    this.#inputWait = INPUT_RETRY;
    this.flush();
    this.#checkExit();
    return true;
  }

  /** Goes on under another name, from 0, with what was not acknowledged. */
  rename(clientId: string): void {
    this.clientId = clientId;
    this.input.restart();
    if (this.line) this.attach(this.line);
  }

  /** Asks for all output again, for a terminal that is empty. */
  replay(): void {
    this.output.rewind();
    this.#ackSent = 0;
    if (this.line) this.attach(this.line);
  }

  /** `connection` is no more. */
  lost(connection: Connection): void {
    if (this.#joining === connection) {
      this.#joining = undefined;
      this.timers.clear("attach");
    }
    if (this.line !== connection) return;
    this.line = undefined;
    this.#exited = false;
    for (const name of ["ack", "repeat", "resend", "flush", "resize", "hole", "exit"]) this.timers.clear(name);
  }

  /** `NOT_ATTACHED`, or a new shell: the server took us off. */
  detached(connection: Connection): void {
    if (connection === this.line && !this.#joining) this.attach(connection);
  }

  /** True if a new shell began with this frame, or none did; false if the frame is of an older one. */
  #enter(epoch: number): boolean {
    if ((this.output.epoch ?? 0) > epoch) return false;
    if (this.output.enter(epoch)) {
      this.#ackSent = 0;
      this.#exit = undefined;
      this.#exited = false;
      this.events.restart(this.input.discard());
    }
    return true;
  }

  onOutput(frame: Frame<"output">): void {
    if (!this.#enter(frame.epoch)) return;
    if (frame.inputOffset !== undefined) this.onInputAck(frame.inputOffset);
    const bytes = decodePayload(frame);
    this.#received(this.output.output(frame.offset, bytes) === "repeat" || bytes.length === 0);
  }

  onSnapshot(frame: Frame<"snapshot">): void {
    if (!this.#enter(frame.epoch)) return;
    this.#received(this.output.snapshot(frame, decodePayload(frame)) === "repeat");
  }

  onExit(frame: Frame<"exit">): void {
    if (!this.#enter(frame.epoch)) return;
    const { offset, exitCode, signal } = frame;
    if (this.#exited) return this.#ack(); // a repeat: our acknowledgement was lost
    this.#exit = { offset, exit: { exitCode, signal } };
    this.#checkExit();
  }

  #received(answerNow: boolean): void {
    if (answerNow) {
      const wait = this.#ackedAt + REPEAT_ACK_SPACING - performance.now();
      if (wait <= 0) this.#ack();
      else if (!this.timers.has("repeat")) this.timers.set("repeat", wait, () => this.#ack());
    }
    if (!this.output.hole) this.timers.clear("hole");
    else if (!this.timers.has("hole")) {
      // The server does not know that something got lost until its window is full. Tell it.
      this.timers.set("hole", OUTPUT_HOLE_AFTER, () => this.line && this.output.hole && this.attach(this.line));
    }
    this.#checkExit();
  }

  #consumed(): void {
    const unacked = this.output.consumed - this.#ackSent;
    const now = performance.now();
    this.#unackedSince ??= now;
    if (unacked >= OUTPUT_ACK_EVERY || now - this.#unackedSince >= OUTPUT_ACK_WITHIN) this.#ack();
    else if (unacked > 0 && !this.timers.has("ack")) {
      this.timers.set("ack", OUTPUT_ACK_WITHIN, () => this.#ack());
    }
    this.#checkExit();
  }

  #ack(): void {
    const { epoch, consumed } = this.output;
    if (epoch === undefined || !this.line) return;
    if (this.line.send({ type: "ack", outputOffset: consumed, epoch })) this.#acked();
  }

  #acked(): void {
    this.timers.clear("ack");
    this.timers.clear("repeat");
    this.#ackSent = this.output.consumed;
    this.#ackedAt = performance.now();
    this.#unackedSince = undefined;
  }

  /** Everything on the screen, as something that may ride on another frame. */
  get ackOffset(): number | undefined {
    return this.output.epoch === undefined ? undefined : this.output.consumed;
  }

  #checkExit(): void {
    if (!this.#exit) return;
    const { offset, exit } = this.#exit;
    if (offset === undefined) {
      // Only `attached` said so, without the end of the output: it is over when nothing more comes.
      this.timers.set("exit", ATTACH_RETRY, () => {
        if (!this.output.hole && this.output.idle && this.#exit) this.#exit.offset ??= this.output.consumed;
        this.#checkExit();
      });
    } else if (this.output.consumed >= offset) {
      this.timers.clear("exit");
      this.#exit = undefined;
      this.#exited = true;
      this.#ack();
      this.events.exit(exit);
    }
  }

  /** Queues bytes for the shell; false if they do not fit. */
  send(bytes: Uint8Array): boolean {
    if (this.readOnly || !this.input.push(bytes)) return false;
    const urgent = bytes.length === 1 && (bytes[0] ?? 0) < 32; // Enter, Ctrl-C
    const wait = this.#inputSentAt + INPUT_COALESCE - performance.now();
    if (urgent || wait <= 0) this.flush();
    else if (!this.timers.has("flush")) this.timers.set("flush", wait, () => this.flush());
    return true;
  }

  /** Sends what the window allows; `frames` bounds how much. */
  flush(frames = Number.POSITIVE_INFINITY): void {
    this.timers.clear("flush");
    if (!this.line || this.#joining) return;
    for (let i = 0; i < frames; i++) {
      const part = this.input.take();
      if (!part) break;
      const { epoch, consumed } = this.output;
      this.line.send({
        type: "input",
        clientId: this.clientId,
        offset: part.offset,
        ...encodePayload(part.bytes),
        epoch,
        outputOffset: epoch && consumed,
      });
      this.#acked();
      this.#inputSentAt = performance.now();
    }
    this.#watchInput();
  }

  #watchInput(): void {
    if (!this.input.unacknowledged) this.timers.clear("resend");
    else if (!this.timers.has("resend")) {
      // An acknowledgement may take the server 200 ms and the way back.
      const wait = Math.max(this.#inputWait, 250 + 2 * this.roundTrip());
      this.timers.set("resend", wait, () => this.#resend());
    }
  }

  /** One frame again; what is behind it follows when that is acknowledged, or was held by the server anyway. */
  #resend(): void {
    this.#inputWait = Math.min(2 * this.#inputWait, INPUT_RETRY_MAX);
    this.input.back();
    this.flush(1);
  }

  onInputAck(offset: number): void {
    if (!this.input.ack(offset)) return;
    this.#inputWait = INPUT_RETRY;
    this.timers.clear("resend");
    this.flush();
  }

  /** `INPUT_GAP`. */
  onInputGap(offset: number | undefined): void {
    if (offset !== undefined) this.onInputAck(offset);
    if (!this.input.unacknowledged || performance.now() - this.#inputSentAt < INPUT_RETRY) return;
    this.timers.clear("resend");
    this.#resend();
  }

  /** Our terminal's size; repeated until the server says which is in force. */
  resize(cols: number, rows: number): void {
    this.cols = cols;
    this.rows = rows;
    this.#resizeWait = RESIZE_RETRY;
    if (this.line && !this.#joining) this.#sendSize();
  }

  #sendSize(): void {
    const { line, cols, rows } = this;
    if (!line || this.readOnly) return;
    line.cols = cols;
    line.rows = rows;
    line.send({ type: "resize", cols, rows, seq: ++line.seq });
    this.timers.set("resize", this.#resizeWait, () => this.#sendSize());
    this.#resizeWait *= 2;
  }

  onSize(): void {
    this.timers.clear("resize");
  }

  /** A polite goodbye, so that the shell does not wait for us. */
  leave(): void {
    if (this.line) this.line.send({ type: "detach", seq: ++this.line.seq });
  }
}
