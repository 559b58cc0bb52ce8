// The receiving end of the output stream: offsets in, ordered bytes out. No timers, no I/O.
// Contract: crates/protocol/README.md, section 3, "Output".
import { utf8 } from "./bytes.js";
import { OUTPUT_HELD_MAX, SNAPSHOT_PARTS_MAX } from "./limits.js";

/** Where output goes: a terminal. Both calls say `done` when the bytes are on the screen: that is the credit. */
export interface OutputSink {
  /** `end`: the stream's offset behind these bytes. */
  write(bytes: Uint8Array, done: () => void, end: number): void;
  /** Resets the terminal to `cols`×`rows`, then writes the parts in order. */
  reset(cols: number, rows: number, parts: Uint8Array[], done: () => void): void;
}

/** A sink that tells of every byte, and hands it on if there is anybody to take it. */
export function tee(tell: (bytes: Uint8Array) => void, sink: () => OutputSink | undefined): OutputSink {
  return {
    write(bytes, done, end) {
      tell(bytes);
      const to = sink();
      if (to) to.write(bytes, done, end);
      else done();
    },
    reset(cols, rows, parts, done) {
      for (const bytes of [utf8("\x1bc"), ...parts]) tell(bytes);
      const to = sink();
      if (to) to.reset(cols, rows, parts, done);
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

/** `fresh`: bytes that were needed. `early`: held, or a snapshot's part. `repeat`: had already; acknowledge at once. */
export type Verdict = "fresh" | "early" | "repeat" | "dropped";

export class OutputReceiver {
  /** The shell whose output this is; undefined before the first frame that names one. */
  epoch: number | undefined;
  /** The next byte needed. */
  next = 0;
  /** Everything before this is on the screen: what may be acknowledged. */
  consumed = 0;
  /** Bytes that were gone and came as snapshots, in all. */
  lost = 0;
  #held = new Map<number, Uint8Array>();
  #heldBytes = 0;
  #snapshot: Snapshot | undefined;
  #writing = 0; // what the sink has not confirmed
  #resetting = false; // a snapshot is on its way to the screen; output behind it waits in #held
  #generation = 0; // of the sink's confirmations: those of an older stream do not count

  constructor(
    private readonly sink: () => OutputSink,
    private readonly onConsumed: () => void,
    private readonly onGap: (gap: number) => void,
  ) {}

  /** Whether something is missing before what has come. */
  get hole(): boolean {
    return !this.#resetting && (this.#held.size > 0 || this.#snapshot !== undefined);
  }

  /** Whether everything received is on the screen. */
  get idle(): boolean {
    return this.#writing === 0;
  }

  /** Takes up the shell `epoch`. True if it is another than before: offsets begin anew. */
  enter(epoch: number): boolean {
    if (this.epoch === epoch) return false;
    const changed = this.epoch !== undefined;
    this.rewind();
    this.epoch = epoch;
    return changed;
  }

  /** Forgets everything received, for an empty terminal that needs it all again. */
  rewind(): void {
    this.#generation++;
    this.next = this.consumed = this.#writing = this.#heldBytes = 0;
    this.#held.clear();
    this.#snapshot = undefined;
    this.#resetting = false;
    this.epoch = undefined;
  }

  output(offset: number, bytes: Uint8Array): Verdict {
    const end = offset + bytes.length;
    if (end <= this.next) return "repeat"; // also the empty probe at the offset where we are
    if (offset > this.next || this.#resetting) return this.#hold(offset, bytes);
    this.#write(bytes.subarray(this.next - offset));
    this.#release();
    return "fresh";
  }

  snapshot(
    frame: { offset: number; part: number; parts: number; cols: number; rows: number; gap: number },
    bytes: Uint8Array,
  ): Verdict {
    if (frame.offset <= this.next) return "repeat";
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
    if (current.parts[frame.part]) return "repeat";
    current.parts[frame.part] = bytes;
    if (--current.missing > 0 || this.#resetting) return "early";
    this.#apply(current);
    return "fresh";
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

  #hold(offset: number, bytes: Uint8Array): Verdict {
    if (bytes.length === 0) return "early"; // a probe ahead of us: what is before it was lost
    const known = this.#held.get(offset);
    if (known && known.length >= bytes.length) return "repeat";
    if (this.#heldBytes + bytes.length - (known?.length ?? 0) > OUTPUT_HELD_MAX) return "dropped";
    this.#held.set(offset, bytes);
    this.#heldBytes += bytes.length - (known?.length ?? 0);
    return "early";
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
