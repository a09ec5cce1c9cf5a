/**
 * The comparable form of an event: what is left of its text when everything that may differ between two equal runs is taken out.
 *
 *   kernel      vcpu0-4144 [000] ...1. 50707: kvm_mmu_set_spte: gfn 40010 spte 23162e67 (rwxu) level 1 at 24f0080
 *   template    kvm_mmu_set_spte: gfn 40010 spte @|e67 (rwxu) level 1 at @+80
 *   frames      [23162, 24f0]
 *
 * By the rules of traces/README.md, "How to compare":
 *
 *   host frames        (`pfn`, SPTEs with bit 11, `at`) become @; which @ is which is checked by renaming.ts. Error pfns stay.
 *   host addresses     become memN+offset; lines whose range is outside the workload's memory are dropped (the VMM's own).
 *   %p pointers        (`sptep`) are dropped; they are hashed.
 *   MMIO generations   count memslot updates since the end of the set-up (reference/tracepoints.md, section 7), also inside MMIO SPTEs.
 *   probes, markers    are dropped: they are not tracepoints.
 *   host interrupts    an exit for an interrupt of the host and the entry after it are dropped (cases with kvm_entry and kvm_exit on), as is
 *                      the second delivery of an exception that such an exit cut short.
 *
 * Each event also says what it does to the frames it names (`effect`), so that a renaming can tell when a frame has left.
 */
import { hexU64, parseHexU64, type U64 } from "../engine/index.ts";
import {
  EMPTY_LAYOUT,
  type HostLayout,
  layoutOf,
  type Piece,
  parseSlotMarker,
  piecesOf,
  withSlot,
} from "./host-layout.ts";
import * as mmu from "./mmu-event.ts";
import type { EventLine, WorkloadRun } from "./run.ts";

/** What an event does to frames that SPTEs hold. */
export type FrameEffect =
  /** A TDP entry changed. `place` names the entry; frames are null when that value is not present. `split`: from a page to a table. */
  | {
      readonly kind: "entry-changed";
      readonly place: string;
      readonly oldFrame: number | null;
      readonly newFrame: number | null;
      readonly split: boolean;
    }
  /** A shadow entry was set: entry `offset` of `table`, for guest frame `gfn`. */
  | {
      readonly kind: "entry-set";
      readonly table: number;
      readonly offset: number;
      readonly frame: number | null;
      readonly gfn: number;
      readonly level: number;
    }
  /** A fault has found its page and is about to map it. */
  | { readonly kind: "frame-requested"; readonly frame: number | null }
  /** The task is done with what it faulted on: it faults anew, or leaves. */
  | { readonly kind: "fault-ended" }
  /** A table of this level is being torn down; the event does not name its frame. */
  | { readonly kind: "table-zapped"; readonly level: number }
  /** The host announced that it changes what is behind these parts of memory. */
  | { readonly kind: "host-unmapped"; readonly pieces: readonly Piece[] };

export interface CanonicalEvent {
  readonly source: EventLine;
  /** `event: text`, each frame replaced by @. */
  readonly template: string;
  /** The frames, in the order of the @s. */
  readonly frames: readonly number[];
  readonly effect: FrameEffect | null;
}

/** What the canonical form of one run depends on. */
export interface CanonicalContext {
  readonly layout: HostLayout;
  /** `v6.12`, `v7.2`: where an MMIO SPTE keeps its generation. */
  readonly kernel: string;
  /** The memslot generation that counts as 0. */
  readonly generationBase: number;
}

export interface CanonicalRun {
  readonly setup: readonly CanonicalEvent[];
  readonly operations: readonly (readonly CanonicalEvent[])[];
  readonly teardown: readonly CanonicalEvent[];
}

/**
 * Puts a whole run into canonical form.
 *
 * @param otherwise the layout to use when the run neither has one nor has markers that give one
 */
export function canonicalRun(run: WorkloadRun, kernel: string, otherwise: HostLayout): CanonicalRun {
  const own = run.layout ?? layoutOf(run.setup);
  const layout = own.places.length > 0 ? own : otherwise;
  // A memslot update steps the generation by 2; the set-up made one for each memslot.
  const context = { layout, kernel, generationBase: 2 * layout.slotsMade };
  return {
    setup: canonicalSetup(run.setup, context),
    operations: run.operations.map((operation) => canonicalEvents(operation.events, context)),
    teardown: canonicalEvents(run.teardown, context),
  };
}

/** During the set-up only memory whose marker has come is memory: before it, its mapping is still being made. */
function canonicalSetup(lines: readonly EventLine[], context: CanonicalContext): readonly CanonicalEvent[] {
  let layout = EMPTY_LAYOUT;
  const events: CanonicalEvent[] = [];
  for (const line of lines) {
    const slot = parseSlotMarker(line);
    if (slot !== null) layout = withSlot(layout, slot);
    const event = canonicalEvent(line, { ...context, layout });
    if (event !== null) events.push(event);
  }
  return events;
}

export function canonicalEvents(lines: readonly EventLine[], context: CanonicalContext): readonly CanonicalEvent[] {
  return withoutHostInterrupts(lines)
    .map((line) => canonicalEvent(line, context))
    .filter((event) => event !== null);
}

/**
 * A timer of the host may end any stay in the guest: `kvm_exit ... reason interrupt`, and the next entry goes on where it was. If it ends
 * the delivery of an exception, that is delivered again: a reinjection with nothing since the injection before it.
 */
function withoutHostInterrupts(lines: readonly EventLine[]): readonly EventLine[] {
  const interrupted = new Set<string>();
  const last = new Map<string, string>();
  return lines.filter((line) => {
    const { task, event, text } = line;
    if (mmu.kindOf(event, text) !== "tracepoint") return false;
    if (event === "kvm_exit" && HOST_INTERRUPT.test(text)) {
      interrupted.add(task);
      return false;
    }
    if (event === "kvm_entry" && interrupted.delete(task)) return false;
    const isReinjection = event === "kvm_inj_exception" && text.includes("[reinjected]");
    if (isReinjection && (interrupted.has(task) || last.get(task) === "kvm_inj_exception")) return false;
    last.set(task, event);
    return true;
  });
}

/** The exit reasons of an interrupt or NMI for the host, on AMD and on Intel. */
const HOST_INTERRUPT = / reason (?:interrupt|nmi|EXTERNAL_INTERRUPT) /;

/** @returns null for a line that takes no part in a comparison */
export function canonicalEvent(line: EventLine, context: CanonicalContext): CanonicalEvent | null {
  if (mmu.kindOf(line.event, line.text) !== "tracepoint") return null;
  const writer = new TemplateWriter(context);
  const form = FORMS[line.event];
  const rendered = form === undefined ? { text: line.text, effect: null } : form(line.text, writer, context);
  if (rendered === null) return null;
  const template = `${line.event}: ${rendered.text.trimEnd()}`;
  return { source: line, template, frames: writer.frames, effect: rendered.effect };
}

/** Collects the frames of one event while its template is written. */
class TemplateWriter {
  readonly frames: number[] = [];
  private readonly context: CanonicalContext;

  constructor(context: CanonicalContext) {
    this.context = context;
  }

  frame(frame: number): string {
    this.frames.push(frame);
    return "@";
  }

  pfn(text: string): string {
    const pfn = mmu.parsePfn(text);
    return pfn === null ? text : this.frame(pfn);
  }

  spte(spte: U64): string {
    if (mmu.isPresent(spte)) return `${this.frame(mmu.frameOf(spte))}|${hexU64(mmu.withoutFrame(spte))}`;
    if (!mmu.isMmio(spte)) return hexU64(spte);
    const { generation, gfn, bits } = mmu.mmioParts(spte, this.context.kernel);
    return `mmio(gfn ${gfn.toString(16)} bits ${hexU64(bits)} gen ${this.generation(generation)})`;
  }

  /** A generation relative to the end of the set-up. */
  generation(generation: number): string {
    const relative = generation - this.context.generationBase;
    return relative < 0 ? `-${(-relative).toString(16)}` : `+${relative.toString(16)}`;
  }
}

interface Rendered {
  readonly text: string;
  readonly effect: FrameEffect | null;
}

/** Writes an event's template. Null drops the event. */
type Form = (text: string, writer: TemplateWriter, context: CanonicalContext) => Rendered | null;

/** Replaces hexadecimal fields by name; for events whose fields have no effect. */
const fields =
  (pattern: RegExp, write: (writer: TemplateWriter, field: string, digits: string) => string): Form =>
  (text, writer) => ({
    text: text.replace(pattern, (_whole, field: string, digits: string) => write(writer, field, digits)),
    effect: null,
  });

const hostRange: Form = (text, _writer, { layout }) => {
  const range = mmu.parseHostRange(text);
  if (range === null) return { text, effect: null };
  const pieces = piecesOf(layout, range.start, range.end);
  if (pieces.length === 0) return null;
  const places = pieces.map(
    (piece) => `mem${piece.memory}+${piece.offset.toString(16)} len ${piece.length.toString(16)}`,
  );
  return { text: text.replace(/: 0x.*$/, `: ${places.join(", ")}`), effect: null };
};

const tableZapped: Form = (text) => {
  const page = mmu.parseShadowPage(text);
  return { text, effect: page === null ? null : { kind: "table-zapped", level: page.level } };
};

const spteChanged: Form = (text, writer) => {
  const e = mmu.parseSpteChanged(text);
  if (e === null) return { text, effect: null };
  const frame = (spte: U64) => (mmu.isPresent(spte) ? mmu.frameOf(spte) : null);
  const split = mmu.isLeaf(e.oldSpte, e.level) && mmu.isPresent(e.newSpte) && !mmu.isLeaf(e.newSpte, e.level);
  const place = `${e.asId}:${e.gfn.toString(16)}:${e.level}`;
  return {
    text: `as id ${e.asId} gfn ${e.gfn.toString(16)} level ${e.level} old_spte ${writer.spte(e.oldSpte)} new_spte ${writer.spte(e.newSpte)}`,
    effect: { kind: "entry-changed", place, oldFrame: frame(e.oldSpte), newFrame: frame(e.newSpte), split },
  };
};

const setSpte: Form = (text, writer) => {
  const e = mmu.parseSetSpte(text);
  if (e === null) return { text, effect: null };
  const { gfn, level, table, offset } = e;
  const frame = mmu.isPresent(e.spte) ? mmu.frameOf(e.spte) : null;
  const spte = writer.spte(e.spte);
  return {
    text: `gfn ${gfn.toString(16)} spte ${spte} (${e.access}) level ${level} at ${writer.frame(table)}+${offset.toString(16)}`,
    effect: { kind: "entry-set", table, offset, frame, gfn, level },
  };
};

const hostUnmapped: Form = (text, writer, context) => {
  const rendered = hostRange(text, writer, context);
  const range = mmu.parseHostRange(text);
  if (rendered === null || range === null) return rendered;
  return {
    text: rendered.text,
    effect: { kind: "host-unmapped", pieces: piecesOf(context.layout, range.start, range.end) },
  };
};

const FORMS: Readonly<Record<string, Form>> = {
  kvm_tdp_mmu_spte_changed: spteChanged,
  kvm_mmu_set_spte: setSpte,
  kvm_mmu_prepare_zap_page: tableZapped,
  kvm_page_fault: (text) => ({ text, effect: { kind: "fault-ended" } }),
  kvm_userspace_exit: (text) => ({ text, effect: { kind: "fault-ended" } }),
  kvm_mmu_spte_requested: (text, writer) => ({
    text: text.replace(/\bpfn ([0-9a-f]+)/, (_whole, digits: string) => `pfn ${writer.pfn(digits)}`),
    effect: { kind: "frame-requested", frame: mmu.parseSpteRequested(text)?.pfn ?? null },
  }),
  kvm_mmu_split_huge_page: fields(
    /\b(spte) ([0-9a-f]+)/,
    (writer, field, digits) => `${field} ${writer.spte(parseHexU64(digits))}`,
  ),
  fast_page_fault: (text, writer) => ({
    text: text
      .replace(/sptep \S+/, "sptep *")
      .replace(/\b(old|new) (?:0x)?([0-9a-f]+)/g, (_whole, field: string, digits: string) => {
        return `${field} ${writer.spte(parseHexU64(digits))}`;
      }),
    effect: null,
  }),
  mark_mmio_spte: (text, writer) => ({
    text: text
      .replace(/sptep:\S+/, "sptep:*")
      .replace(
        /\bgen ([0-9a-f]+)/,
        (_whole, digits: string) => `gen ${writer.generation(Number.parseInt(digits, 16))}`,
      ),
    effect: null,
  }),
  check_mmio_spte: fields(/\b(spte|kvm_gen|spte-gen) ([0-9a-f]+)/g, (writer, field, digits) => {
    const value = parseHexU64(digits);
    return `${field} ${field === "spte" ? writer.spte(value) : writer.generation(value.lo >>> 0)}`;
  }),
  kvm_unmap_hva_range: hostUnmapped,
  kvm_set_spte_hva: hostUnmapped,
  kvm_age_hva: hostRange,
  kvm_test_age_hva: hostRange,
};
