// Receive buffer of the output stream: reassembles frames into ordered bytes. No timers, no I/O.
// Contract: crates/protocol/README.md, section 3, "Output".
import { utf8 } from "./bytes.js";
import { OUTPUT_HELD_MAX, SNAPSHOT_PARTS_MAX } from "./limits.js";

/** A terminal. It calls `done` when the bytes are on the screen; until then they hold the server back. */
export interface OutputSink {
  /** `end`: stream offset just past these bytes. */
  write(bytes: Uint8Array, done: () => void, end: number): void;
  /** Resets the terminal to `cols`×`rows`, then writes the parts in order. */
  reset(cols: number, rows: number, parts: Uint8Array[], done: () => void): void;
}

/** A sink that passes every byte to `listener`, and to `sink` if there is one. */
export function tee(listener: (bytes: Uint8Array) => void, sink: () => OutputSink | undefined): OutputSink {
  return {
    write(bytes, done, end) {
      listener(bytes);
      const target = sink();
      if (target) target.write(bytes, done, end);
      else done();
    },
    reset(cols, rows, parts, done) {
      for (const bytes of [utf8("\x1bc"), ...parts]) listener(bytes);
      const target = sink();
      if (target) target.reset(cols, rows, parts, done);
      else done();
    },
  };
}

interface Snapshot {
  offset: number;
  cols: number;
  rows: number;
  gap: number;
  parts: (Uint8Array | undefined)[];
  missing: number;
}

/**
 * What became of a frame. `accepted`: its bytes are on their way to the sink. `buffered`: it waits for earlier bytes or
 * for other parts of its snapshot. `duplicate`: received before, so the sender missed an ack. `dropped`: invalid, stale
 * or over a limit.
 */
type Outcome = "accepted" | "buffered" | "duplicate" | "dropped";

export class OutputReceiver {
  /** The shell that writes this output; undefined before the first frame that names one. */
  epoch: number | undefined;
  /** Offset of the next byte needed. */
  next = 0;
  /** Everything before this offset is on the screen, and may be acknowledged. */
  consumed = 0;
  /** Bytes that snapshots replaced, in total. */
  lost = 0;
  #held = new Map<number, Uint8Array>();
  #heldBytes = 0;
  #snapshot: Snapshot | undefined;
  #writing = 0; // bytes that the sink has not confirmed
  #resetting = false; // the sink is applying a snapshot; later output waits in #held
  #generation = 0; // outdates the sink's confirmations of an earlier stream

  constructor(
    private readonly sink: () => OutputSink,
    private readonly onConsumed: () => void,
    private readonly onGap: (gap: number) => void,
  ) {}

  /** Whether bytes are missing before buffered ones. */
  get hole(): boolean {
    return !this.#resetting && (this.#held.size > 0 || this.#snapshot !== undefined);
  }

  /** Whether everything received is on the screen. */
  get idle(): boolean {
    return this.#writing === 0;
  }

  /** Switches to the shell `epoch`. Returns true if it replaces another, so that offsets start at 0 again. */
  enter(epoch: number): boolean {
    if (this.epoch === epoch) return false;
    const changed = this.epoch !== undefined;
    this.rewind();
    this.epoch = epoch;
    return changed;
  }

  /** Starts over at 0, for a terminal that is empty. */
  rewind(): void {
    this.#generation++;
    this.next = this.consumed = this.#writing = this.#heldBytes = 0;
    this.#held.clear();
    this.#snapshot = undefined;
    this.#resetting = false;
    this.epoch = undefined;
  }

  output(offset: number, bytes: Uint8Array): Outcome {
    const end = offset + bytes.length;
    if (end <= this.next) return "duplicate"; // an empty probe at `next` counts as one
    if (offset > this.next || this.#resetting) return this.#hold(offset, bytes);
    this.#write(bytes.subarray(this.next - offset));
    this.#release();
    return "accepted";
  }

  snapshot(
    frame: { offset: number; part: number; parts: number; cols: number; rows: number; gap: number },
    bytes: Uint8Array,
  ): Outcome {
    if (frame.offset <= this.next) return "duplicate";
    if (!(frame.parts > 0 && frame.parts <= SNAPSHOT_PARTS_MAX && frame.part >= 0 && frame.part < frame.parts)) {
      return "dropped";
    }
    let current = this.#snapshot;
    if (!current || frame.offset > current.offset || frame.parts !== current.parts.length) {
      if (current && frame.offset < current.offset) return "dropped";
      const { offset, cols, rows, gap, parts } = frame;
      current = { offset, cols, rows, gap, parts: new Array(parts).fill(undefined), missing: parts };
      this.#snapshot = current;
    } else if (frame.offset < current.offset) {
      return "dropped";
    }
    if (current.parts[frame.part]) return "duplicate";
    current.parts[frame.part] = bytes;
    if (--current.missing > 0 || this.#resetting) return "buffered";
    this.#apply(current);
    return "accepted";
  }

  #apply(snapshot: Snapshot): void {
    const { offset, cols, rows, gap, parts } = snapshot;
    const generation = ++this.#generation;
    this.#snapshot = undefined;
    this.#resetting = true;
    this.#writing = 1;
    this.next = offset;
    this.lost += gap;
    this.onGap(gap);
    this.sink().reset(cols, rows, parts as Uint8Array[], () => {
      if (generation !== this.#generation) return;
      this.#resetting = false;
      this.#writing = 0;
      this.consumed = offset;
      this.#release();
      this.onConsumed();
    });
  }

  #write(bytes: Uint8Array): void {
    const generation = this.#generation;
    this.next += bytes.length;
    this.#writing += bytes.length;
    const done = () => {
      if (generation !== this.#generation) return;
      this.#writing -= bytes.length;
      this.consumed += bytes.length;
      this.onConsumed();
    };
    this.sink().write(bytes, done, this.next);
  }

  #hold(offset: number, bytes: Uint8Array): Outcome {
    if (bytes.length === 0) return "buffered"; // a probe ahead of `next`: bytes before it were lost
    const known = this.#held.get(offset);
    if (known && known.length >= bytes.length) return "duplicate";
    if (this.#heldBytes + bytes.length - (known?.length ?? 0) > OUTPUT_HELD_MAX) return "dropped";
    this.#held.set(offset, bytes);
    this.#heldBytes += bytes.length - (known?.length ?? 0);
    return "buffered";
  }

  #release(): void {
    for (let more = true; more && !this.#resetting; ) {
      more = false;
      for (const [offset, bytes] of this.#held) {
        if (offset > this.next) continue;
        this.#held.delete(offset);
        this.#heldBytes -= bytes.length;
        if (offset + bytes.length > this.next) this.#write(bytes.subarray(this.next - offset));
        more = true;
      }
    }
    const snapshot = this.#snapshot;
    if (!snapshot || this.#resetting) return;
    if (snapshot.offset <= this.next) this.#snapshot = undefined;
    else if (snapshot.missing === 0) this.#apply(snapshot);
  }
}
