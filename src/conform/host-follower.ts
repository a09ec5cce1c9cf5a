/**
 * The host mm of a run that follows a recording: what backs a page, and which notifiers are called, is what the recording says.
 *
 *     KVM asks for the page at an address
 *       the recorded fault of the same number:   its notifier calls are made, as the host's own fault made them
 *                                                its page is put into the process's page tables
 *       KVM looks the page up there, notices what the calls did, and goes its way
 *
 * Frames keep their identity (the same recorded frame is the same frame here) and pages their contents: when another frame
 * takes a page's place, its bytes move along, unless they were thrown away (MADV_DONTNEED).
 */
import { type Steps, type TraceRecord, UsageError, type World } from "../engine/index.ts";
import { type HostPolicy, type Mm, type MmuNotifierOps, notifyEnd, notifyStart } from "../kernel/index.ts";
import { isKvmEvent, type KvmEvent } from "../kvm/trace.ts";
import { type Hva, hva, PAGE_SIZE, PFERR_FETCH, type Pfn, pagesPerLevel, pfn } from "../machine/index.ts";
import type { MemoryPlace } from "./host-layout.ts";
import type { Backing, FaultDecision, HostPlan, NotifierCall } from "./host-plan.ts";

/** Where a slot puts host memory in the guest: what the follower needs of a memslot. */
export interface SlotPlace {
  readonly baseGfn: number;
  readonly npages: number;
  readonly hva: number;
}

/** A huge page of the host, and the model frame of each address in it. */
interface HugeMapping {
  readonly level: number;
  readonly frameOf: (addr: Hva) => Pfn;
}

/** A run of host pages that may not be accessed that way. */
interface Denial {
  readonly start: number;
  readonly end: number;
  readonly readable: boolean;
}

export class HostFollower implements HostPolicy {
  private readonly world: World;
  private readonly mm: Mm;
  private readonly plan: HostPlan;
  private readonly slots: () => readonly SlotPlace[];
  /** Of the kvm module, as they are now. */
  private readonly params: { readonly nxHugePages: boolean };
  /** Number of the operation that runs; -1 before the first. */
  operation = -1;
  private operationStart = 0;
  /** Model frame of a recorded one. */
  private readonly frames = new Map<number, Pfn>();
  /** First model frame of a recorded block of huge pages, by its first frame. */
  private readonly blocks: { readonly first: number; readonly count: number; model: Pfn | null }[];
  /** The frame that has the contents of a host page. */
  private readonly contents = new Map<number, Pfn>();
  /** Huge pages in the process's page tables, by their first address. */
  private readonly hugePages = new Map<number, HugeMapping>();
  /** The operation that last threw a page's contents away. */
  private readonly discarded = new Map<number, number>();
  private denials: Denial[] = [];
  private readonly applied = new Set<FaultDecision>();

  constructor(
    world: World,
    mm: Mm,
    plan: HostPlan,
    slots: () => readonly SlotPlace[],
    params: { readonly nxHugePages: boolean },
  ) {
    this.world = world;
    this.mm = mm;
    this.plan = plan;
    this.slots = slots;
    this.params = params;
    this.blocks = plan.blocks.map((block) => ({ ...block, model: null }));
  }

  begin(operation: number): void {
    this.operation = operation;
    this.operationStart = this.world.trace.length;
  }

  // --- what KVM asks -----------------------------------------------------------------------------------------------

  *beforeLookup(addr: Hva, write: boolean): Steps<void> {
    const page = hva(addr - (addr % PAGE_SIZE));
    const decision = this.decide(page);
    if (decision !== null && !this.applied.has(decision)) {
      this.applied.add(decision);
      yield* this.make(decision.before);
    }
    if (this.isDenied(page, write)) {
      this.forgetEntries(page, page + PAGE_SIZE);
      return;
    }
    this.install(page, decision, write);
  }

  /** A huge page of the host may first show when KVM looks for one, after dirty logging. */
  *beforeLevel(addr: Hva): Steps<void> {
    const gfns = this.gfnsOf(hva(addr - (addr % PAGE_SIZE)));
    for (const page of this.plan.hugePages(this.operation)) {
      const gfn = gfns.find((each) => each >= page.gfn && each < page.gfn + pagesPerLevel(page.level));
      if (gfn === undefined || page.pfn === null) continue;
      const first = hva(addr - (addr % PAGE_SIZE) - (gfn - page.gfn) * PAGE_SIZE);
      if ((this.hugePageAround(first)?.level ?? 1) < page.level) this.installAt(first, page.pfn, page.level, true);
    }
  }

  /** A page that KVM maps ahead of use is one that the host has: the recording shows which. */
  beforePrefetch(addr: Hva): void {
    if (this.mm.frameAt(addr) !== null) return;
    const fault = this.currentFault();
    if (fault === null) return;
    const decision = this.plan.faults(this.operation, fault.event.vcpu)[fault.taken];
    const gfns = this.gfnsOf(addr);
    const found = decision?.prefetched.find(({ gfn }) => gfns.includes(gfn));
    if (found?.pfn !== undefined && found.pfn !== null) this.installAt(addr, found.pfn, 1, found.hostWritable ?? true);
  }

  frameForUser(addr: Hva, _write: boolean): Pfn {
    return this.frameForVmm(addr);
  }

  private decide(page: Hva): FaultDecision | null {
    const fault = this.currentFault();
    const vcpu = fault?.event.vcpu ?? this.currentVcpu();
    if (vcpu === null) return null;
    const taken = fault === null ? 0 : fault.taken;
    const gfns = this.gfnsOf(page);
    for (const gfn of gfns) {
      const found = this.plan.decide({ operation: this.operation, vcpu, gfn, taken });
      if (found !== null) return found;
    }
    return null;
  }

  private currentVcpu(): number | null {
    const name = this.world.current?.name ?? "";
    return /^vcpu\d+$/.test(name) ? Number(name.slice(4)) : null;
  }

  /** The vCPU's last fault in this operation, and how many it took before. */
  private currentFault(): {
    readonly event: KvmEvent & { readonly name: "kvm_page_fault" };
    readonly taken: number;
  } | null {
    const vcpu = this.currentVcpu();
    const { trace } = this.world;
    let last: (KvmEvent & { readonly name: "kvm_page_fault" }) | null = null;
    let count = 0;
    for (let i = this.operationStart; i < trace.length; i++) {
      const { event } = trace[i] as TraceRecord;
      if (!isKvmEvent(event) || event.name !== "kvm_page_fault" || event.vcpu !== vcpu) continue;
      last = event;
      count++;
    }
    return last === null ? null : { event: last, taken: count - 1 };
  }

  private gfnsOf(page: Hva): readonly number[] {
    return this.slots().flatMap((slot) => {
      const index = (page - slot.hva) / PAGE_SIZE;
      return index >= 0 && index < slot.npages ? [slot.baseGfn + index] : [];
    });
  }

  // --- page tables -------------------------------------------------------------------------------------------------

  private install(page: Hva, decision: FaultDecision | null, write: boolean): void {
    const backing = this.backingOf(page, decision);
    if (backing === null || backing.pfn === null) {
      const frame = this.contents.get(page) ?? this.mm.frames.allocate(`frame@${page.toString(16)}`);
      this.mm.install(page, frame, 1, true);
      this.setContents(page, frame);
      return;
    }
    // Nothing says that the host changed anything: what KVM made of the page was there already.
    const isSame = this.mm.frameAt(page) === this.frameOf(backing.pfn);
    if (backing.hostWritable === null && backing.level === 1 && !write && isSame) return;
    // A page that KVM maps in smaller pieces is still the host's huge page, until a notifier call says that it went.
    const standing = this.hugePageAround(page);
    const sameFrame = standing !== null && standing.frameOf(page) === this.frameOf(backing.pfn);
    const known = sameFrame ? Math.max(standing.level, backing.level) : backing.level;
    const level = known === 1 && decision !== null ? this.levelOfFetch(page, backing, decision) : known;
    this.installAt(page, backing.pfn, level, write || (backing.hostWritable ?? false));
  }

  /** A fetch where huge pages are not executable asks for 4K, whatever the host has. */
  private levelOfFetch(page: Hva, backing: Backing, decision: FaultDecision): number {
    const { errorCode, counter } = decision;
    if (!this.params.nxHugePages || backing.pfn === null || errorCode === null || (errorCode.lo & PFERR_FETCH) === 0)
      return 1;
    const level = this.plan.hostLevel({ counter, gfn: backing.gfn, pfn: backing.pfn, hva: page });
    const pages = pagesPerLevel(level);
    const index = (page / PAGE_SIZE) % pages;
    return level === 1 || this.hasBlock(backing.pfn - index, pages) ? level : 1;
  }

  /** Makes sure that recorded frames are consecutive here, too; false when some of them have been given others already. */
  private hasBlock(first: number, count: number): boolean {
    if (this.blocks.some((block) => first >= block.first && first + count <= block.first + block.count)) return true;
    for (let i = 0; i < count; i++) if (this.frames.has(first + i)) return false;
    this.blocks.push({ first, count, model: null });
    return true;
  }

  /** Maps the page of a level around a 4K page, whose recorded frame is given. */
  private installAt(page: Hva, recorded: number, level: number, writable: boolean): void {
    const pages = pagesPerLevel(level);
    const index = (page / PAGE_SIZE) % pages;
    const first = hva(page - index * PAGE_SIZE);
    const firstFrame = this.frameOf(recorded - index);
    if (level === 1) this.setContents(first, firstFrame);
    else {
      for (let i = 0; i < pages; i++) {
        const at = hva(first + i * PAGE_SIZE);
        if (this.contents.has(at)) this.setContents(at, (firstFrame + i) as Pfn);
      }
      this.hugePages.set(first, { level, frameOf: (addr) => (firstFrame + (addr - first) / PAGE_SIZE) as Pfn });
    }
    this.mm.install(first, firstFrame, level, writable);
  }

  /** The huge page that the host maps around an address, as far as it is known. */
  private hugePageAround(addr: Hva): HugeMapping | null {
    for (const level of [3, 2]) {
      const found = this.hugePages.get(addr - (addr % (PAGE_SIZE * pagesPerLevel(level))));
      if (found?.level === level) return found;
    }
    return null;
  }

  private backingOf(page: Hva, decision: FaultDecision | null): Backing | null {
    const gfns = this.gfnsOf(page);
    if (decision !== null) {
      const all = [...(decision.requested === null ? [] : [decision.requested]), ...decision.prefetched];
      const exact = all.find((backing) => gfns.includes(backing.gfn));
      if (exact !== undefined) return exact;
    }
    const operation = Math.max(0, this.operation);
    return this.plan.backingOfPage({ operation, gfns, since: this.discarded.get(page) ?? -1 });
  }

  private frameOf(recorded: number): Pfn {
    const known = this.frames.get(recorded);
    if (known !== undefined) return known;
    const block = this.blocks.find(({ first, count }) => recorded >= first && recorded < first + count);
    if (block === undefined) {
      const frame = this.mm.frames.allocate(`frame ${recorded.toString(16)}`);
      this.frames.set(recorded, frame);
      return frame;
    }
    block.model ??= this.mm.frames.allocate(`frames ${block.first.toString(16)}`, block.count);
    return pfn(block.model + recorded - block.first);
  }

  private forgetEntries(start: number, end: number): void {
    const { mm } = this;
    const from = Math.max(start, mm.base);
    const to = Math.min(end, mm.base + mm.pages * PAGE_SIZE);
    mm.clear(hva(from), hva(to));
    for (const [first, { level }] of this.hugePages) {
      if (first < end && first + PAGE_SIZE * pagesPerLevel(level) > start) this.hugePages.delete(first);
    }
  }

  // --- contents ------------------------------------------------------------------------------------------------------

  private setContents(page: Hva, frame: Pfn): void {
    const old = this.contents.get(page);
    if (old === frame) return;
    if (old !== undefined) this.copyFrame(old, frame);
    this.contents.set(page, frame);
  }

  private copyFrame(from: Pfn, to: Pfn): void {
    const { words } = this.world.heap;
    const source = (from * PAGE_SIZE) / 4;
    words.copyWithin((to * PAGE_SIZE) / 4, source, source + PAGE_SIZE / 4);
  }

  /** The pages' contents are gone: they read as zero next time. */
  private forgetContents(start: number, end: number): void {
    for (let page = start; page < end; page += PAGE_SIZE) {
      this.contents.delete(page);
      this.discarded.set(page, this.operation);
    }
  }

  /** The frame behind a page that the VMM itself accesses. */
  frameForVmm(page: Hva): Pfn {
    const known = this.contents.get(page);
    if (known !== undefined) return known;
    const backing = this.backingOf(page, null);
    const recorded = backing?.pfn ?? null;
    const frame = recorded === null ? this.mm.frames.allocate(`frame@${page.toString(16)}`) : this.frameOf(recorded);
    this.contents.set(page, frame);
    return frame;
  }

  // --- what the host does ------------------------------------------------------------------------------------------

  /** The notifier calls of the operation that belong to no fault of a vCPU, in order: which threads make them. */
  threads(): readonly { readonly task: string; readonly calls: readonly NotifierCall[] }[] {
    const threads: { task: string; calls: NotifierCall[] }[] = [];
    for (const call of this.plan.calls(this.operation)) {
      const last = threads.at(-1);
      if (last?.task === call.task) last.calls.push(call);
      else threads.push({ task: call.task, calls: [call] });
    }
    return threads;
  }

  *replay(calls: readonly NotifierCall[]): Steps<void> {
    yield* this.make(calls);
  }

  *replaySetup(call: NotifierCall): Steps<void> {
    yield* this.make([call]);
  }

  private *make(calls: readonly NotifierCall[]): Steps<void> {
    for (const call of calls) {
      if (call.pieces.length === 0) continue;
      const start = hva(call.start);
      const end = hva(call.end);
      switch (call.kind) {
        case "invalidate-start":
          yield* notifyStart(this.mm, { start, end, event: call.event ?? 0 });
          this.forgetEntries(start, end);
          break;
        case "invalidate-end":
          yield* notifyEnd(this.mm, { start, end, event: call.event ?? 0 });
          break;
        case "release":
          break;
        default:
          yield* this.age(call.kind, start, end);
      }
    }
  }

  private *age(kind: "clear-flush-young" | "clear-young" | "test-young", start: Hva, end: Hva): Steps<void> {
    const calls: Readonly<Record<typeof kind, (ops: MmuNotifierOps) => Steps<boolean>>> = {
      "clear-flush-young": (ops) => ops.clearFlushYoung(start, end),
      "clear-young": (ops) => ops.clearYoung(start, end),
      "test-young": (ops) => ops.testYoung(start),
    };
    for (const ops of this.mm.notifiers) yield* calls[kind](ops);
  }

  /** The pages of a range are thrown away, and reads of them are zero. */
  discard(start: number, end: number): void {
    this.forgetContents(start, end);
  }

  /** mprotect(), munmap() and their undoing: which accesses of a range fail from now on. */
  protect(start: number, end: number, allowed: { readonly read: boolean; readonly write: boolean }): void {
    this.denials = this.denials.flatMap((denial) => {
      const left = { ...denial, end: Math.min(denial.end, start) };
      const right = { ...denial, start: Math.max(denial.start, end) };
      return [left, right].filter((part) => part.start < part.end);
    });
    if (!allowed.write) this.denials.push({ start, end, readable: allowed.read });
  }

  private isDenied(page: number, write: boolean): boolean {
    return this.denials.some((denial) => page >= denial.start && page < denial.end && (write || !denial.readable));
  }

  /** Whether the host has the page read-only. */
  isReadOnly(page: number): boolean {
    return this.denials.some((denial) => page >= denial.start && page < denial.end);
  }
}

/** The window of addresses that covers all places, aligned to the largest page. */
export function windowOf(
  places: readonly MemoryPlace[],
  align: number,
): { readonly base: Hva; readonly pages: number } {
  const first = Math.min(...places.map((place) => place.hva));
  const last = Math.max(...places.map((place) => place.hva + place.size));
  if (!Number.isFinite(first)) throw new UsageError("the recording has no memslots; record the case again");
  const base = Math.floor(first / align) * align;
  return { base: hva(base), pages: Math.ceil((last - base) / align) * (align / PAGE_SIZE) };
}
