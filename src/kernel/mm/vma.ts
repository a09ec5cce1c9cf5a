/**
 * VMAs: the mappings of the process, a list in order of address, in modelled memory.
 *
 * They change under mmap_lock held for write and are read under mmap_lock; all accesses are plain. A range that is to get other properties
 * is cut out of its VMA first, and joined with equal neighbours afterwards, as Linux does. Cutting a VMA inside a 2M page announces the split
 * of that page (vma_adjust_trans_huge()), whether a huge page is there or not.
 *
 *     [-------------- rw --------------]        mprotect(r) of the middle
 *     [---- rw ----][-- r --][-- rw ---]        mprotect(rw) of it again
 *     [-------------- rw --------------]
 */
import { ptr, type Steps, Struct, u53, type View } from "../../engine/index.ts";
import { type Hva, hva, PAGE_SIZE } from "../../machine/index.ts";
import { assertHeldWrite } from "../locks.ts";
import { alignDown, PMD_SIZE } from "./entry.ts";
import type { Mm } from "./mm.ts";
import { splitHugePmd } from "./split.ts";

export const PROT_NONE = 0;
export const PROT_READ = 1;
export const PROT_WRITE = 2;
export const PROT_EXEC = 4;

/** Flags of a mapping. Those from VM_DONTFORK on only keep it apart from its neighbours. */
export const VM_SHARED = 1;
export const VM_HUGEPAGE = 2;
export const VM_NOHUGEPAGE = 4;
export const VM_MERGEABLE = 8;
/** hugetlbfs, with pages of 2M or of 1G. */
export const VM_HUGETLB_2M = 16;
export const VM_HUGETLB_1G = 32;
export const VM_DONTFORK = 64;
export const VM_DONTDUMP = 128;
export const VM_WIPEONFORK = 256;
export const VM_RAND_READ = 512;
export const VM_SEQ_READ = 1024;
/** Frames of a driver's (pfnmap.ts); `vm_pgoff` is the first one's number, if they lie in a row. */
export const VM_PFNMAP = 2048;

const VM_HUGETLB = VM_HUGETLB_2M | VM_HUGETLB_1G;

const FIELDS = {
  vm_start: u53,
  vm_end: u53,
  vm_prot: u53,
  vm_flags: u53,
  /** Number of the mapped file (Mm.files), from 1; 0 for anonymous memory. */
  vm_file: u53,
  /** Page of the file at vm_start; for anonymous memory, of the address where it was mapped first. */
  vm_pgoff: u53,
  /** 1 once it has anonymous pages of its own. */
  anon_vma: u53,
  vm_next: ptr,
} as const;

const VMA = new Struct("vm_area_struct", FIELDS);
export type Vma = View<typeof FIELDS>;

/** What a new mapping is. */
export interface VmaInit {
  readonly start: Hva;
  readonly end: Hva;
  readonly prot: number;
  readonly flags?: number;
  readonly file?: number;
  readonly pgoff?: number;
}

const at = (mm: Mm, addr: number): Vma | null => (addr === 0 ? null : VMA.at(mm.world, addr));

/** All VMAs that touch [start, end), in order. */
export function vmasIn(mm: Mm, start: Hva, end: Hva): readonly Vma[] {
  const found: Vma[] = [];
  for (let vma = at(mm, mm.vmaList.value); vma !== null; vma = at(mm, vma.vm_next.value)) {
    if (vma.vm_start.value >= end) break;
    if (vma.vm_end.value > start) found.push(vma);
  }
  return found;
}

/** vma_lookup(): under mmap_lock. */
export function vmaAt(mm: Mm, addr: Hva): Vma | null {
  for (let vma = at(mm, mm.vmaList.value); vma !== null; vma = at(mm, vma.vm_next.value)) {
    if (addr < vma.vm_start.value) return null;
    if (addr < vma.vm_end.value) return vma;
  }
  return null;
}

/** Whether one mapping after the other covers the whole range. */
export function isMapped(mm: Mm, start: Hva, end: Hva): boolean {
  let reached: number = start;
  for (const vma of vmasIn(mm, start, end)) {
    if (vma.vm_start.value > reached) return false;
    reached = vma.vm_end.value;
  }
  return reached >= end;
}

/** Puts a mapping into the list, where nothing is mapped. */
export function insertVma(mm: Mm, init: VmaInit): Vma {
  const vma = VMA.allocate(mm.world, `vma[0x${init.start.toString(16)}]`);
  vma.vm_start.value = init.start;
  vma.vm_end.value = init.end;
  vma.vm_prot.value = init.prot;
  vma.vm_flags.value = init.flags ?? 0;
  vma.vm_file.value = init.file ?? 0;
  vma.vm_pgoff.value = init.pgoff ?? init.start / PAGE_SIZE;
  link(mm, vma);
  return vma;
}

function link(mm: Mm, vma: Vma): void {
  const start = vma.vm_start.value;
  let slot = mm.vmaList;
  for (let next = at(mm, slot.value); next !== null && next.vm_start.value < start; next = at(mm, slot.value)) {
    slot = next.vm_next;
  }
  vma.vm_next.value = slot.value;
  slot.value = vma.addr;
}

/** Takes a mapping out of the list. */
export function removeVma(mm: Mm, vma: Vma): void {
  let slot = mm.vmaList;
  for (let next = at(mm, slot.value); next !== null; next = at(mm, slot.value)) {
    if (next.addr === vma.addr) {
      slot.value = vma.vm_next.value;
      return;
    }
    slot = next.vm_next;
  }
}

/** split_vma(): the VMA ends at `addr`; what was behind becomes one of its own, which is returned. */
function* splitVma(mm: Mm, vma: Vma, addr: Hva): Steps<Vma> {
  assertHeldWrite(mm.mmapLock);
  yield* vmaAdjustTransHuge(mm, vma, addr);
  const upper = VMA.allocate(mm.world, `vma[0x${addr.toString(16)}]`);
  upper.vm_start.value = addr;
  upper.vm_end.value = vma.vm_end.value;
  upper.vm_prot.value = vma.vm_prot.value;
  upper.vm_flags.value = vma.vm_flags.value;
  upper.vm_file.value = vma.vm_file.value;
  upper.vm_pgoff.value = vma.vm_pgoff.value + (addr - vma.vm_start.value) / PAGE_SIZE;
  upper.anon_vma.value = vma.anon_vma.value;
  upper.vm_next.value = vma.vm_next.value;
  vma.vm_end.value = addr;
  vma.vm_next.value = upper.addr;
  return upper;
}

/** vma_adjust_trans_huge(), split_huge_pmd_if_needed(): the 2M page around a border inside the VMA is split. */
function* vmaAdjustTransHuge(mm: Mm, vma: Vma, addr: Hva): Steps<void> {
  const first = alignDown(addr, PMD_SIZE);
  if (first === addr) return;
  if (first < vma.vm_start.value || first + PMD_SIZE > vma.vm_end.value) return;
  if (mm.hasPageTables(addr)) yield* splitHugePmd(mm, hva(first));
}

/** The VMAs of [start, end), cut so that none reaches out of it. */
export function* cutOut(mm: Mm, start: Hva, end: Hva): Steps<readonly Vma[]> {
  for (const border of [start, end]) {
    const vma = vmaAt(mm, border);
    if (vma !== null && vma.vm_start.value < border) yield* splitVma(mm, vma, border);
  }
  return vmasIn(mm, start, end);
}

/** vma_modify(): the part of a VMA in [start, end) gets other properties, and is joined with neighbours that have the same. */
export function* modifyVma(
  mm: Mm,
  vma: Vma,
  range: { readonly start: Hva; readonly end: Hva },
  wanted: { readonly prot?: number; readonly flags?: number },
): Steps<void> {
  let part = vma;
  if (part.vm_start.value < range.start) part = yield* splitVma(mm, part, range.start);
  if (part.vm_end.value > range.end) yield* splitVma(mm, part, range.end);
  part.vm_prot.value = wanted.prot ?? part.vm_prot.value;
  part.vm_flags.value = wanted.flags ?? part.vm_flags.value;
  mergeNeighbours(mm, hva(part.vm_start.value), hva(part.vm_end.value));
}

/** vma_merge(): joins what touches [start, end] and is the same on both sides. */
export function mergeNeighbours(mm: Mm, start: Hva, end: Hva): void {
  let vma = at(mm, mm.vmaList.value);
  while (vma !== null && vma.vm_start.value <= end) {
    const next = at(mm, vma.vm_next.value);
    if (next !== null && vma.vm_end.value >= start && canMerge(vma, next)) {
      vma.vm_end.value = next.vm_end.value;
      vma.vm_next.value = next.vm_next.value;
      if (next.anon_vma.value !== 0) vma.anon_vma.value = 1;
    } else {
      vma = next;
    }
  }
}

function canMerge(lower: Vma, upper: Vma): boolean {
  const pages = (lower.vm_end.value - lower.vm_start.value) / PAGE_SIZE;
  return (
    lower.vm_end.value === upper.vm_start.value &&
    lower.vm_prot.value === upper.vm_prot.value &&
    lower.vm_flags.value === upper.vm_flags.value &&
    lower.vm_file.value === upper.vm_file.value &&
    lower.vm_pgoff.value + pages === upper.vm_pgoff.value
  );
}

export function isAnonymous(vma: Vma): boolean {
  return vma.vm_file.value === 0 && (vma.vm_flags.value & VM_HUGETLB) === 0;
}

export function isHugetlb(vma: Vma): boolean {
  return (vma.vm_flags.value & VM_HUGETLB) !== 0;
}

/** Bytes of a page of the mapping: larger than 4K only for hugetlbfs. */
export function pageSizeOf(vma: Vma): number {
  const flags = vma.vm_flags.value;
  if ((flags & VM_HUGETLB_1G) !== 0) return PMD_SIZE * 512;
  return (flags & VM_HUGETLB_2M) !== 0 ? PMD_SIZE : PAGE_SIZE;
}
