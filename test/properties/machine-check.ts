/**
 * Compares a VM, between two operations, with the plain reference: every entry of its tables, its memslots, its dirty bitmaps, its statistics, what
 * its CPUs have cached.
 */
import type { InspectedMachine } from "../../src/conform/model.ts";
import { CONTROL_SLOT } from "../../src/conform/workload.ts";
import { type U64, u64, type World } from "../../src/engine/index.ts";
import { KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, type KvmMemorySlot } from "../../src/kvm/memslots.ts";
import { KVM_REQ_MMU_FREE_OBSOLETE_ROOTS, KVM_REQ_TLB_FLUSH } from "../../src/kvm/requests.ts";
import {
  isAccessTrackSpte,
  isDirtySpte,
  isFrozenSpte,
  isLastSpte,
  isMmuWritableSpte,
  isShadowPresentPte,
  isWritablePte,
  spteToPfn,
} from "../../src/kvm/spte.ts";
import { type Hva, PAGE_SIZE, type Pfn, pagesPerLevel } from "../../src/machine/index.ts";
import { bigOf } from "./host-reference.ts";
import { logProblem, type ReferenceSlot } from "./slots-reference.ts";
import type { TdpReference } from "./tdp-reference.ts";

/** A leaf of the tables as they are now. */
interface Leaf {
  readonly spte: U64;
  readonly level: number;
  /** Its first frame. */
  readonly gfn: number;
  readonly inValidRoot: boolean;
}

const text = (gfn: number): string => `gfn 0x${gfn.toString(16)}`;
/** Of an entry of 1G, so many pages are looked at. */
const STEP_OF_GIGANTIC = 4099;

/** What does not agree, or null. */
export function machineProblem(machine: InspectedMachine, reference: TdpReference): string | null {
  const leaves = [...leavesOf(machine)];
  return (
    entriesProblem(machine, reference, leaves) ??
    presenceProblem(machine, reference, leaves) ??
    memslotsProblem(machine, reference) ??
    bitmapProblem(machine, reference) ??
    statisticsProblem(machine, leaves) ??
    tlbProblem(machine, reference, leaves) ??
    referencesProblem(machine, reference)
  );
}

function peekEntry(world: World, addr: number): U64 {
  const lo = world.heap.read(addr, 8);
  return u64(world.heap.high, lo);
}

function* leavesOf({ vm }: InspectedMachine): Generator<Leaf> {
  const { tdp } = vm;
  for (let addr = tdp.roots.peek(); addr !== 0; ) {
    const root = tdp.pages.at(addr);
    const role = root.role.peek();
    yield* leavesBelow(vm, root.spt.peek(), role & 0xf, 0, (role & tdp.roles.invalid) === 0);
    addr = root.link.peek();
  }
}

function* leavesBelow(
  vm: InspectedMachine["vm"],
  table: number,
  level: number,
  base: number,
  inValidRoot: boolean,
): Generator<Leaf> {
  for (let i = 0; i < 512; i++) {
    const spte = peekEntry(vm.world, table + 8 * i);
    const gfn = base + i * pagesPerLevel(level);
    if (isFrozenSpte(vm.tdp.layout, spte)) throw new Error(`the entry of ${text(gfn)}, level ${level}, stays frozen`);
    if (!isShadowPresentPte(spte)) continue;
    if (isLastSpte(spte, level)) yield { spte, level, gfn, inValidRoot };
    else yield* leavesBelow(vm, spteToPfn(spte) * PAGE_SIZE, level - 1, gfn, inValidRoot);
  }
}

// --- entries ---------------------------------------------------------------------------------------------------------

function entriesProblem(machine: InspectedMachine, reference: TdpReference, leaves: readonly Leaf[]): string | null {
  for (const leaf of leaves) {
    if (!leaf.inValidRoot) return `${text(leaf.gfn)} is mapped in a root that was dropped`;
    const step = leaf.level === 3 ? STEP_OF_GIGANTIC : 1;
    for (let i = 0; i < pagesPerLevel(leaf.level); i += step) {
      const problem = pageProblem(machine, reference, leaf, i);
      if (problem !== null) return `${text(leaf.gfn + i)}, in an entry of level ${leaf.level}: ${problem}`;
    }
  }
  return null;
}

function pageProblem(machine: InspectedMachine, reference: TdpReference, leaf: Leaf, i: number): string | null {
  const { vm } = machine;
  const gpa = (leaf.gfn + i) * PAGE_SIZE;
  const frame = spteToPfn(leaf.spte) + i;
  if (gpa >= CONTROL_SLOT.gpa && gpa < CONTROL_SLOT.gpa + CONTROL_SLOT.size) return null;
  const found = reference.slots.at(gpa);
  if (found === null) return "it is mapped, and no memslot has it";
  const { slot, index } = found;
  const page = reference.host.pageAt(slot.id, index);
  if (page === null || !page.readable) return "it is mapped, and the VMM has nothing there that may be read";
  const hva = (machine.hvaOf(slot.id) + index * PAGE_SIZE) as Hva;
  if (vm.kvm.mm.frameAt(hva) !== frame) return "it maps another frame than the VMM's page tables";
  const word = bigOf(peekEntry(vm.world, frame * PAGE_SIZE));
  if (page.word.value !== null && word !== page.word.value) {
    return `it maps a page with 0x${word.toString(16)}, not 0x${page.word.value.toString(16)}`;
  }
  return writableProblem(machine, reference, leaf, slot, index, page.writable);
}

function writableProblem(
  { vm }: InspectedMachine,
  { slots, ringsJustReset }: TdpReference,
  { spte, level }: Leaf,
  slot: ReferenceSlot,
  index: number,
  hostWritable: boolean,
): string | null {
  const { layout } = vm.tdp;
  const writable = isWritablePte(spte);
  if ((writable || isMmuWritableSpte(layout, spte)) && !hostWritable)
    return "it may be written, and the VMM may not write it";
  if ((writable || isMmuWritableSpte(layout, spte)) && slot.readonly)
    return "it may be written, and its slot is read-only";
  if (!writable || !slot.dirtyLog) return null;
  // What is written from here on is logged by nobody: it has to be in the log already.
  const logsItself = vm.kvm.variants.pml && level === 1 && !isDirtySpte(layout, spte);
  if (slots.hasRings) return ringsJustReset && !logsItself ? "its ring was reset, and it can be written" : null;
  if (!logsItself && !isInBitmap(vm, slot.id, index))
    return "it can be written without anybody's notice, and is not in the log";
  return null;
}

/** What was used, and not taken away, is mapped; what was written just now can be written. */
function presenceProblem(machine: InspectedMachine, reference: TdpReference, leaves: readonly Leaf[]): string | null {
  for (const gfn of reference.mapped) {
    const leaf = leafAt(leaves, gfn);
    if (leaf === null) return `${text(gfn)} was used, and not taken away, and is not mapped`;
    const { layout } = machine.vm.tdp;
    if (reference.justWritten.has(gfn) && !isWritablePte(leaf.spte) && !isAccessTrackSpte(layout, leaf.spte)) {
      return `${text(gfn)} was written just now, and may not be written`;
    }
  }
  return null;
}

/** Leaves are in the order of their frames. */
function leafAt(leaves: readonly Leaf[], gfn: number): Leaf | null {
  let first = 0;
  let last = leaves.length - 1;
  while (first <= last) {
    const middle = (first + last) >> 1;
    const leaf = leaves[middle] as Leaf;
    if (gfn < leaf.gfn) last = middle - 1;
    else if (gfn >= leaf.gfn + pagesPerLevel(leaf.level)) first = middle + 1;
    else return leaf;
  }
  return null;
}

// --- memslots and their logs -----------------------------------------------------------------------------------------

function memslotsProblem({ vm }: InspectedMachine, { slots }: TdpReference): string | null {
  const { memslots } = vm.kvm;
  const active = memslots.setAt(memslots.active.peek());
  const sets = [active, memslots.inactiveSet(active.addr)];
  const wanted = [...slots.slots.values()].map((slot) =>
    describe(slot.id, slot.gpa / PAGE_SIZE, slot.pages, flagsOf(slot)),
  );
  wanted.push(describe(CONTROL_SLOT.slot, CONTROL_SLOT.gpa / PAGE_SIZE, CONTROL_SLOT.size / PAGE_SIZE, 0));
  for (const set of sets) {
    const found = memslots
      .slotsOf(set)
      .map((slot) => describe(slot.id.peek(), slot.base_gfn.peek(), slot.npages.peek(), slot.flags.peek()));
    if (found.sort().join() !== wanted.sort().join()) return `the memslots are ${found.join()}, not ${wanted.join()}`;
    if (set.generation.peek() !== active.generation.peek())
      return "the two sets of memslots differ in their generation";
  }
  return null;
}

function describe(id: number, gfn: number, pages: number, flags: number): string {
  return `${id}: ${pages} pages at ${text(gfn)}, flags ${flags}`;
}

function flagsOf({ dirtyLog, readonly }: ReferenceSlot): number {
  return (dirtyLog ? KVM_MEM_LOG_DIRTY_PAGES : 0) | (readonly ? KVM_MEM_READONLY : 0);
}

function isInBitmap(vm: InspectedMachine["vm"], id: number, index: number): boolean {
  const bitmap = slotOf(vm, id)?.dirty_bitmap.peek() ?? 0;
  return bitmap !== 0 && ((vm.world.heap.read(bitmap + 4 * (index >>> 5), 4) >>> (index & 31)) & 1) === 1;
}

function slotOf({ kvm }: InspectedMachine["vm"], id: number): KvmMemorySlot | null {
  return kvm.memslots.byId(id);
}

function bitmapProblem({ vm }: InspectedMachine, { slots }: TdpReference): string | null {
  for (const slot of slots.slots.values()) {
    if (!slot.dirtyLog || slots.hasRings) {
      if ((slotOf(vm, slot.id)?.dirty_bitmap.peek() ?? 0) !== 0)
        return `slot ${slot.id} has a bitmap, and logs nothing in it`;
      continue;
    }
    const set = new Set<number>();
    for (let i = 0; i < slot.pages; i++) if (isInBitmap(vm, slot.id, i)) set.add(i);
    const problem = logProblem(slot, set);
    if (problem !== null) return problem;
  }
  return null;
}

// --- statistics, caches, references ----------------------------------------------------------------------------------

function statisticsProblem({ vm, counters }: InspectedMachine, leaves: readonly Leaf[]): string | null {
  const counted: Record<string, number> = { pages_4k: 0, pages_2m: 0, pages_1g: 0 };
  for (const { level } of leaves) {
    const name = (["pages_4k", "pages_2m", "pages_1g"] as const)[level - 1] as string;
    counted[name] = (counted[name] ?? 0) + 1;
  }
  counted["nx_lpage_splits"] = vm.tdp.possibleNxHugePages.nrPages.peek();
  for (const [name, value] of Object.entries(counted)) {
    if (counters.vm[name] !== value) return `${name} is ${counters.vm[name]}, and there are ${value}`;
  }
  for (const values of counters.vcpu) {
    const { pf_taken = 0, pf_fixed = 0, pf_emulate = 0, pf_spurious = 0 } = values;
    if (pf_fixed + pf_emulate + pf_spurious > pf_taken) return "more faults were ended than taken";
  }
  return null;
}

/** Translations that a CPU has cached say no more than the tables; a flush that it has yet to do, before it enters the guest again, is as good as done. */
function tlbProblem({ vm }: InspectedMachine, reference: TdpReference, leaves: readonly Leaf[]): string | null {
  for (const vcpu of vm.vcpus) {
    const willFlush = (vcpu.requests.peek() & (KVM_REQ_TLB_FLUSH | KVM_REQ_MMU_FREE_OBSOLETE_ROOTS)) !== 0;
    if (willFlush || vcpu.rootHpa.peek() === 0) continue;
    const cached = vcpu.guest.tlb.contents();
    for (let at = 0; at < cached.length; at += 4) {
      const [number = 0, level = 1, base = 0, rights = 0] = cached.slice(at, at + 4);
      // Guests address memory by its own addresses.
      const gfn = number * pagesPerLevel(level);
      const leaf = leafAt(leaves, gfn);
      if (leaf === null) return `vcpu${vcpu.id} has ${text(gfn)} cached, which is not mapped`;
      const frame = spteToPfn(leaf.spte) + (gfn - leaf.gfn);
      if (frame * PAGE_SIZE !== base) return `vcpu${vcpu.id} has another frame cached for ${text(gfn)}`;
      if ((rights & 1) === 1 && !mayStayWritable(vm, reference, leaf, gfn)) {
        return `vcpu${vcpu.id} may write ${text(gfn)} by what it has cached only`;
      }
    }
  }
  return null;
}

/**
 * Whether a translation that may be used to write needs no flush. Access tracking takes W from an entry and leaves it in the TLBs, and 6.12
 * makes a dirty entry anew without D when it is pre-faulted; neither matters as long as the page is in the log.
 */
function mayStayWritable(
  vm: InspectedMachine["vm"],
  { slots }: TdpReference,
  { spte, level }: Leaf,
  gfn: number,
): boolean {
  const { layout } = vm.tdp;
  const found = slots.at(gfn * PAGE_SIZE);
  const isLogged = found?.slot.dirtyLog === true && !slots.hasRings;
  const isInLog = found !== null && isLogged && isInBitmap(vm, found.slot.id, found.index);
  if (isWritablePte(spte)) {
    const needsD = isLogged && vm.kvm.variants.pml && level === 1;
    return !needsD || isInLog || isDirtySpte(layout, spte);
  }
  return !layout.adEnabled && isMmuWritableSpte(layout, spte) && (!isLogged || isInLog);
}

/** Whoever has looked a page up has let it go again: only mappings, and files, hold pages. */
function referencesProblem(machine: InspectedMachine, reference: TdpReference): string | null {
  if (reference.children > 0) return null;
  const { workload } = machine;
  const { mm } = machine.vm.kvm;
  for (const { slot, size, backing } of workload.memory) {
    if (backing === "memfd" || backing === "fileprivate" || backing === "hugetlb1g") continue;
    for (let i = 0; i < size / PAGE_SIZE; i++) {
      const frame = mm.frameAt((machine.hvaOf(slot) + i * PAGE_SIZE) as Hva);
      if (frame === null || mm.isZeroPage(frame) || mm.isZeroPage((frame - (frame % 512)) as Pfn)) continue;
      const head = mm.frames.headOf(frame);
      const [references, mappings] = [head._refcount.peek(), head._mapcount.peek()];
      if (references !== mappings)
        return `page ${i} of memory ${slot} has ${references} references and ${mappings} mappings`;
    }
  }
  return null;
}
