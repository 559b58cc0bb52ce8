// The input and output streams of one client, over whichever connection is attached: attach, acks, retransmission,
// terminal size (crates/protocol/README.md 3).
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

/** The server acknowledges input within 200 ms; the rest allows for late timers. */
const INPUT_ACK_DELAY = 250;

interface StreamEvents {
  sink(): OutputSink;
  /** A new shell started. `discarded`: bytes of input for the old one. */
  restart(discarded: number): void;
  gap(bytes: number): void;
  exit(exit: Exit): void;
  /** The server has forgotten this input stream: call `rename()` with a new client id. */
  forgotten(): void;
}

export class Streams {
  readonly output: OutputReceiver;
  readonly input = new InputSender();
  clientId = "";
  cols = 80;
  rows = 24;
  #readOnly = false;
  #timers = new Timers();
  /** The attached connection; carries all frames. */
  #attached: Connection | undefined;
  /** A connection that awaits `attached`. Input waits too. */
  #attaching: Connection | undefined;
  #ackSent = 0;
  #ackedAt = Number.NEGATIVE_INFINITY;
  #unackedSince: number | undefined;
  #inputSentAt = Number.NEGATIVE_INFINITY;
  #inputDelay = INPUT_RETRY;
  #resizeDelay = RESIZE_RETRY;
  #exit: { offset: number | undefined; exit: Exit } | undefined;
  #exited = false; // reported on this connection

  constructor(
    private readonly events: StreamEvents,
    private readonly roundTrip: () => number,
  ) {
    this.output = new OutputReceiver(events.sink, () => this.#consumed(), events.gap);
  }

  get readOnly(): boolean {
    return this.#readOnly;
  }

  /** Attaches `connection`. Repeats the frame until `attached` arrives. */
  attach(connection: Connection): void {
    if (this.#attaching !== connection && this.#attached !== connection) this.input.beginConnection();
    this.#attaching = connection;
    connection.cols = this.cols;
    connection.rows = this.rows;
    const { epoch, next } = this.output;
    connection.send({
      type: "attach",
      clientId: this.clientId,
      cols: this.cols,
      rows: this.rows,
      epoch, // JSON omits it if undefined
      outputOffset: epoch && next,
      seq: ++connection.seq,
    });
    this.#timers.set("attach", ATTACH_RETRY, () => this.attach(connection));
  }

  /** Switches to `connection`. Returns false if the frame is outdated or does not fit the input stream. */
  handleAttached(connection: Connection, frame: Frame<"attached">): boolean {
    const { epoch, exit } = frame;
    if (connection !== this.#attaching || (this.output.epoch ?? 0) > epoch) return false;
    this.#attaching = undefined;
    this.#timers.clear("attach");
    this.#attached = connection;
    this.#readOnly = frame.readOnly;
    this.#enter(epoch);
    this.#ackSent = this.output.consumed;
    if (exit && !this.#exit && !this.#exited) this.#exit = { offset: undefined, exit };
    if (this.#readOnly) this.input.discard();
    else if (!this.input.resume(frame.inputOffset)) {
      this.events.forgotten();
      return false;
    }
    if (connection.cols !== this.cols || connection.rows !== this.rows) this.resize(this.cols, this.rows);
    this.#inputDelay = INPUT_RETRY;
    this.#flush();
    this.#checkExit();
    return true;
  }

  /** Continues under a new client id: unacknowledged input becomes a new stream from 0. */
  rename(clientId: string): void {
    this.clientId = clientId;
    this.input.renumber();
    if (this.#attached) this.attach(this.#attached);
  }

  /** Requests all output again, for a terminal that is empty. */
  replay(): void {
    this.output.rewind();
    this.#ackSent = 0;
    if (this.#attached) this.attach(this.#attached);
  }

  /** `connection` was closed. */
  lost(connection: Connection): void {
    if (this.#attaching === connection) {
      this.#attaching = undefined;
      this.#timers.clear("attach");
    }
    if (this.#attached !== connection) return;
    this.#attached = undefined;
    this.#exited = false;
    for (const name of ["ack", "repeat", "resend", "flush", "resize", "hole", "exit"]) this.#timers.clear(name);
  }

  /** Attaches again after NOT_ATTACHED or a restarted shell, unless that is under way. */
  reattach(connection: Connection): void {
    if (connection === this.#attached && !this.#attaching) this.attach(connection);
  }

  /** READ_ONLY: drops the input, which the server will never take. */
  makeReadOnly(): void {
    this.#readOnly = true;
    this.input.discard();
    this.#timers.clear("resend");
  }

  stopTimers(): void {
    this.#timers.clearAll();
  }

  /** Switches to `epoch` if it is a newer shell. Returns false if it is an older one. */
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

  handleOutput(frame: Frame<"output">): void {
    if (!this.#enter(frame.epoch)) return;
    if (frame.inputOffset !== undefined) this.#handleInputOffset(frame.inputOffset);
    const bytes = decodePayload(frame);
    this.#received(this.output.output(frame.offset, bytes) === "duplicate" || bytes.length === 0);
  }

  handleSnapshot(frame: Frame<"snapshot">): void {
    if (!this.#enter(frame.epoch)) return;
    this.#received(this.output.snapshot(frame, decodePayload(frame)) === "duplicate");
  }

  handleExit(frame: Frame<"exit">): void {
    if (!this.#enter(frame.epoch)) return;
    const { offset, exitCode, signal } = frame;
    if (this.#exited) return this.#ack(); // a repeat: the server missed the ack
    this.#exit = { offset, exit: { exitCode, signal } };
    this.#checkExit();
  }

  #received(ackNow: boolean): void {
    if (ackNow) {
      const wait = this.#ackedAt + REPEAT_ACK_SPACING - performance.now();
      if (wait <= 0) this.#ack();
      else if (!this.#timers.has("repeat")) this.#timers.set("repeat", wait, () => this.#ack());
    }
    if (!this.output.hole) this.#timers.clear("hole");
    else if (!this.#timers.has("hole")) {
      // The server would not notice the loss until its window is full. Attaching tells it the missing offset.
      this.#timers.set(
        "hole",
        OUTPUT_HOLE_AFTER,
        () => this.#attached && this.output.hole && this.attach(this.#attached),
      );
    }
    this.#checkExit();
  }

  #consumed(): void {
    const unacked = this.output.consumed - this.#ackSent;
    const now = performance.now();
    this.#unackedSince ??= now;
    if (unacked >= OUTPUT_ACK_EVERY || now - this.#unackedSince >= OUTPUT_ACK_WITHIN) this.#ack();
    else if (unacked > 0 && !this.#timers.has("ack")) {
      this.#timers.set("ack", OUTPUT_ACK_WITHIN, () => this.#ack());
    }
    this.#checkExit();
  }

  #ack(): void {
    const { epoch, consumed } = this.output;
    if (epoch === undefined || !this.#attached) return;
    if (this.#attached.send({ type: "ack", outputOffset: consumed, epoch })) this.#acked();
  }

  #acked(): void {
    this.#timers.clear("ack");
    this.#timers.clear("repeat");
    this.#ackSent = this.output.consumed;
    this.#ackedAt = performance.now();
    this.#unackedSince = undefined;
  }

  /** Output offset that other frames can acknowledge. */
  get ackOffset(): number | undefined {
    return this.output.epoch === undefined ? undefined : this.output.consumed;
  }

  #checkExit(): void {
    if (!this.#exit) return;
    const { offset, exit } = this.#exit;
    if (offset === undefined) {
      // `attached` carries no end offset. Assume the end of the output once none has arrived for a while.
      this.#timers.set("exit", ATTACH_RETRY, () => {
        if (!this.output.hole && this.output.idle && this.#exit) this.#exit.offset ??= this.output.consumed;
        this.#checkExit();
      });
    } else if (this.output.consumed >= offset) {
      this.#timers.clear("exit");
      this.#exit = undefined;
      this.#exited = true;
      this.#ack();
      this.events.exit(exit);
    }
  }

  /** Queues input. Returns false if it does not fit, or the session is read-only. */
  send(bytes: Uint8Array): boolean {
    if (this.#readOnly || !this.input.push(bytes)) return false;
    const control = bytes.length === 1 && (bytes[0] ?? 0) < 32; // Enter, Ctrl-C: never delayed
    const wait = this.#inputSentAt + INPUT_COALESCE - performance.now();
    if (control || wait <= 0) this.#flush();
    else if (!this.#timers.has("flush")) this.#timers.set("flush", wait, () => this.#flush());
    return true;
  }

  /** Sends input as far as the window allows, in at most `frames` frames. */
  #flush(frames = Number.POSITIVE_INFINITY): void {
    this.#timers.clear("flush");
    if (!this.#attached || this.#attaching) return;
    for (let i = 0; i < frames; i++) {
      const chunk = this.input.nextChunk();
      if (!chunk) break;
      const { epoch, consumed } = this.output;
      this.#attached.send({
        type: "input",
        clientId: this.clientId,
        offset: chunk.offset,
        ...encodePayload(chunk.bytes),
        epoch,
        outputOffset: epoch && consumed,
      });
      this.#acked();
      this.#inputSentAt = performance.now();
    }
    this.#scheduleResend();
  }

  #scheduleResend(): void {
    if (!this.input.inFlight) this.#timers.clear("resend");
    else if (!this.#timers.has("resend")) {
      const delay = Math.max(this.#inputDelay, INPUT_ACK_DELAY + 2 * this.roundTrip());
      this.#timers.set("resend", delay, () => this.#resend());
    }
  }

  /** Sends one frame again. Its ack releases the rest, which the server may have buffered already. */
  #resend(): void {
    this.#inputDelay = Math.min(2 * this.#inputDelay, INPUT_RETRY_MAX);
    this.input.rewind();
    this.#flush(1);
  }

  handleInputAck({ clientId, epoch, inputOffset }: Frame<"input_ack">): void {
    if (clientId === this.clientId && epoch === this.output.epoch) this.#handleInputOffset(inputOffset);
  }

  #handleInputOffset(offset: number): void {
    if (!this.input.ack(offset)) return;
    this.#inputDelay = INPUT_RETRY;
    this.#timers.clear("resend");
    this.#flush();
  }

  /** INPUT_GAP: sends again from `offset`, unless input was sent just now. */
  handleInputGap(offset: number | undefined): void {
    if (offset !== undefined) this.#handleInputOffset(offset);
    if (!this.input.inFlight || performance.now() - this.#inputSentAt < INPUT_RETRY) return;
    this.#timers.clear("resend");
    this.#resend();
  }

  /** Sets this terminal's size. Repeats `resize` until `resize_ack` arrives. */
  resize(cols: number, rows: number): void {
    this.cols = cols;
    this.rows = rows;
    this.#resizeDelay = RESIZE_RETRY;
    if (this.#attached && !this.#attaching) this.#sendSize();
  }

  #sendSize(): void {
    const connection = this.#attached;
    const { cols, rows } = this;
    if (!connection || this.#readOnly) return;
    connection.cols = cols;
    connection.rows = rows;
    connection.send({ type: "resize", cols, rows, seq: ++connection.seq });
    this.#timers.set("resize", this.#resizeDelay, () => this.#sendSize());
    this.#resizeDelay *= 2;
  }

  handleResizeAck(): void {
    this.#timers.clear("resize");
  }

  /** Detaches, so that the session does not wait for this client to return. */
  detach(): void {
    if (this.#attached) this.#attached.send({ type: "detach", seq: ++this.#attached.seq });
  }
}
