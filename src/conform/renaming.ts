/**
 * A renaming of host frames between two runs.
 *
 * Two equal runs use different page frames, for data and for tables. A pair of events agrees only if the frames in them correspond: there is
 * a bijection between the frames of the two runs, built up as frames appear, and a pair that contradicts it does not match.
 *
 * The bijection holds at each moment, not for ever. A frame that is freed may be handed out again for something else, and the two runs
 * differ in which one is. So a correspondence stands as long as either of its frames is held by an SPTE, and may be replaced after.
 * When a frame has left depends on what the trace can show:
 *
 *   both         a page is held from kvm_mmu_spte_requested until its task faults again or leaves the kernel.
 *   TDP MMU      every change of an entry is an event: a frame is held by exactly the entries whose last value names it.
 *   shadow MMU   entries are dropped silently. A page is held from its kvm_mmu_set_spte until the same entry is set anew, or the host
 *                announces that it takes the page back (kvm_unmap_hva_range; it must, before it frees it). A table is held from when it
 *                is first seen until a page of its level is torn down: the event does not say which one, so all of that level are let go.
 *
 * Left out: that the frames of one huge page are consecutive. Renaming is page by page.
 */
import type { CanonicalEvent, FrameEffect } from "./canonical.ts";
import type { Piece } from "./host-layout.ts";

/** The recorded run, or the one compared with it. */
export type Side = 0 | 1;

/** Guest frames that a piece of memory may be seen at; `end` exclusive. */
export type GfnRanges = (piece: Piece) => readonly { readonly start: number; readonly end: number }[];

export class FrameRenaming {
  /** From the recorded run's frames to the other's, and back. */
  private readonly forward = new Map<number, number>();
  private readonly backward = new Map<number, number>();
  private readonly held: readonly [HeldFrames, HeldFrames];

  /**
   * @param tdp whether entries' changes are events (TDP MMU)
   * @param gfnsOf where memory is in the guest, at any time of the workload
   */
  constructor(tdp: boolean, gfnsOf: GfnRanges) {
    this.held = [new HeldFrames(tdp, gfnsOf), new HeldFrames(tdp, gfnsOf)];
  }

  /** Takes in a pair of events with equal templates. False: their frames contradict what stands. */
  pair(recorded: CanonicalEvent, other: CanonicalEvent): boolean {
    const agrees = this.bindAll(recorded.frames, other.frames);
    this.see(0, recorded);
    this.see(1, other);
    return agrees;
  }

  /** Takes in an event that only one run has. */
  see(side: Side, event: CanonicalEvent): void {
    if (event.effect !== null) this.held[side].apply(event.source.task, event.effect);
  }

  private bindAll(recorded: readonly number[], other: readonly number[]): boolean {
    const agrees =
      recorded.length === other.length && recorded.every((frame, at) => this.mayBind(frame, other[at] as number));
    // Two frames of one event may contradict each other, even where each could be bound alone.
    const pairs = new Map(recorded.map((frame, at) => [frame, other[at] as number]));
    const isBijection =
      recorded.every((frame, at) => pairs.get(frame) === other[at]) && new Set(pairs.values()).size === pairs.size;
    if (!agrees || !isBijection) return false;
    recorded.forEach((frame, at) => {
      this.bind(frame, other[at] as number);
    });
    return true;
  }

  private mayBind(frame: number, other: number): boolean {
    if (this.forward.get(frame) === other) return true;
    const isFrameFree = !this.forward.has(frame) || !this.held[0].has(frame);
    const isOtherFree = !this.backward.has(other) || !this.held[1].has(other);
    return isFrameFree && isOtherFree;
  }

  private bind(frame: number, other: number): void {
    const oldOther = this.forward.get(frame);
    if (oldOther === other) return;
    if (oldOther !== undefined) this.backward.delete(oldOther);
    const oldFrame = this.backward.get(other);
    if (oldFrame !== undefined) this.forward.delete(oldFrame);
    this.forward.set(frame, other);
    this.backward.set(other, frame);
  }
}

/** Which frames SPTEs hold, on one side. */
class HeldFrames {
  private readonly tdp: boolean;
  private readonly gfnsOf: GfnRanges;
  /**
   * Place (an entry, or a fault in progress) to the frames it holds: more than one when several roots have an entry there. `gfn` is -1
   * where it does not matter.
   */
  private readonly entries = new Map<
    string,
    { readonly frames: number[]; readonly gfn: number; readonly level: number }
  >();
  /** How many entries hold a frame. */
  private readonly counts = new Map<number, number>();
  /** Shadow tables seen, with their level. */
  private readonly tables = new Map<number, number>();

  constructor(tdp: boolean, gfnsOf: GfnRanges) {
    this.tdp = tdp;
    this.gfnsOf = gfnsOf;
  }

  has(frame: number): boolean {
    return this.counts.has(frame) || this.tables.has(frame);
  }

  apply(task: string, effect: FrameEffect): void {
    switch (effect.kind) {
      case "frame-requested":
        this.setFrame(`requested by ${task}`, effect.frame);
        break;
      case "fault-ended":
        this.dropEntry(`requested by ${task}`);
        break;
      case "entry-changed":
        this.changeEntry(effect.place, effect.oldFrame, effect.newFrame);
        // The page is still named by the event that follows, and is then held by entries that no event has set.
        this.setFrame(`split by ${task}`, effect.split ? effect.oldFrame : null);
        break;
      case "entry-set":
        if (!this.tdp) this.setEntry(effect);
        break;
      case "table-zapped":
        if (!this.tdp) this.dropTables(effect.level);
        break;
      case "host-unmapped":
        this.dropEntry(`requested by ${task}`);
        if (!this.tdp) this.dropPieces(effect.pieces);
        break;
    }
  }

  private setFrame(place: string, frame: number | null): void {
    this.dropEntry(place);
    if (frame === null) return;
    this.entries.set(place, { frames: [frame], gfn: -1, level: 1 });
    this.hold(frame);
  }

  private changeEntry(place: string, oldFrame: number | null, newFrame: number | null): void {
    const frames = this.entries.get(place)?.frames ?? [];
    if (oldFrame !== null) {
      const at = frames.indexOf(oldFrame);
      // A value that no event set before: born in a split table, or the runs went apart. Nothing else is known about the entry then.
      const gone = at >= 0 ? frames.splice(at, 1) : frames.splice(0);
      for (const frame of gone) this.release(frame);
    }
    if (newFrame !== null) {
      frames.push(newFrame);
      this.hold(newFrame);
    }
    if (frames.length > 0) this.entries.set(place, { frames, gfn: -1, level: 1 });
    else this.entries.delete(place);
  }

  private setEntry(effect: Extract<FrameEffect, { kind: "entry-set" }>): void {
    const place = `${effect.table}+${effect.offset}`;
    this.dropEntry(place);
    this.tables.set(effect.table, effect.level);
    if (effect.frame === null) return;
    this.entries.set(place, { frames: [effect.frame], gfn: effect.gfn, level: effect.level });
    this.hold(effect.frame);
  }

  private dropTables(level: number): void {
    for (const [table, tableLevel] of this.tables) {
      if (tableLevel === level) this.tables.delete(table);
    }
  }

  private dropPieces(pieces: readonly Piece[]): void {
    const ranges = pieces.flatMap((piece) => this.gfnsOf(piece));
    for (const [place, entry] of this.entries) {
      const end = entry.gfn + 512 ** (entry.level - 1);
      if (ranges.some((range) => entry.gfn < range.end && end > range.start)) this.dropEntry(place);
    }
  }

  private dropEntry(place: string): void {
    for (const frame of this.entries.get(place)?.frames ?? []) this.release(frame);
    this.entries.delete(place);
  }

  private hold(frame: number): void {
    this.counts.set(frame, (this.counts.get(frame) ?? 0) + 1);
  }

  private release(frame: number): void {
    const count = (this.counts.get(frame) ?? 0) - 1;
    if (count > 0) this.counts.set(frame, count);
    else this.counts.delete(frame);
  }
}
