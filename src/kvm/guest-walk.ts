/**
 * KVM's own walk of the guest's tables: where a guest-virtual address leads, and with what rights.
 *
 *     walk_addr_generic
 *       retry: for each level: read the entry from the VMM's memory; present? reserved bits?
 *              rights of all levels together against the access
 *              accessed and dirty bits that are missing are set by compare-exchange; an entry that has changed meanwhile: retry
 *
 * What was read may change at once: who builds on it reads the entries again under mmu_lock (gpte_changed()). Stands for
 * FNAME(walk_addr_generic), FNAME(update_accessed_dirty_bits), FNAME(gva_to_gpa) and nonpaging_gva_to_gpa() of 6.12 and 7.2; protection keys
 * are not modelled.
 */
import { orU64, type Steps, sameU64, type U64 } from "../engine/index.ts";
import {
  compareExchangeAt,
  getUser,
  getUserPageFast,
  getUserWords,
  type Mm,
  putPage,
  readLock,
  readUnlock,
  tryCmpxchgUser,
  VM_PFNMAP,
  vmaAt,
} from "../kernel/index.ts";
import {
  type Gfn,
  type Gpa,
  type Gva,
  gfn,
  gpaToGfn,
  guestEntryFrame,
  guestEntrySize,
  guestPagesPerEntry,
  guestTableIndex,
  type Hva,
  hasReservedBits,
  isAccessed,
  isDirty,
  isLastGuestEntry,
  isPresent,
  offsetInPage,
  PAGE_SIZE,
  type PagingMode,
  PFERR_FETCH,
  PFERR_PRESENT,
  PFERR_RSVD,
  PFERR_USER,
  PFERR_WRITE,
  PT_ACCESSED_MASK,
  PT_DIRTY_MASK,
} from "../machine/index.ts";
import { type AccessBits, accessBits, gpteAccess, permissionFault } from "./cpu-role.ts";
import { kvmVcpuMarkPageDirty } from "./dirty-log.ts";
import { gfnToHva, gfnToMemslot, isVisibleMemslot, KVM_MEM_READONLY, KVM_MEMSLOT_INVALID } from "./memslots.ts";
import type { Vcpu } from "./vcpu.ts";

/** One level of a walk. */
export interface WalkedEntry {
  readonly level: number;
  readonly tableGfn: Gfn;
  /** Guest-physical address of the entry. */
  readonly gpa: Gpa;
  readonly hva: Hva;
  /** The VMM may write there: the memslot is not read-only. */
  readonly writable: boolean;
  /** As it was read, or as it is after its accessed and dirty bits were set. */
  pte: U64;
  /** What the entries above allow. */
  readonly ptAccess: number;
}

/** struct guest_walker: a walk that has arrived. */
export interface GuestWalk {
  readonly kind: "walk";
  /** Level of the entry that maps the page. */
  readonly level: number;
  /** The frame of exactly the address. */
  readonly gfn: Gfn;
  readonly pteAccess: number;
  /** From the top down to `level`. PDPTEs are not among them. */
  readonly entries: readonly WalkedEntry[];
}

/** The entry of a level that the walk went through. */
export function walkedEntry({ entries }: GuestWalk, level: number): WalkedEntry {
  const top = entries[0] as WalkedEntry;
  return entries[top.level - level] as WalkedEntry;
}

/** The walk failed: the guest's own page fault. */
export interface WalkFault {
  readonly kind: "fault";
  readonly address: Gva;
  readonly errorCode: number;
}

/** FNAME(walk_addr). @param access PFERR_WRITE, _USER, _FETCH, and what else an error code has */
export function* walkAddr(vcpu: Vcpu, addr: Gva, access: number): Steps<GuestWalk | WalkFault> {
  if (vcpu.world.tracepoints) vcpu.vm.emit({ name: "kvm_mmu_pagetable_walk", addr, pferr: access });
  for (;;) {
    const result = yield* walkOnce(vcpu, addr, access);
    if (result === "retry") continue;
    if (result.kind === "fault" && vcpu.world.tracepoints)
      vcpu.vm.emit({ name: "kvm_mmu_walker_error", errorCode: result.errorCode });
    return result;
  }
}

function* walkOnce(vcpu: Vcpu, addr: Gva, access: number): Steps<GuestWalk | WalkFault | "retry"> {
  const { mode } = vcpu.guest;
  const bits = accessBits(vcpu.vm.kvm.variants.kernel);
  const write = (access & PFERR_WRITE) !== 0;
  const { tracepoints } = vcpu.world;
  const entries: WalkedEntry[] = [];
  const page = Math.floor(addr / PAGE_SIZE);
  let table = Math.floor(mode.cr3 / PAGE_SIZE);
  let level: number = mode.levels;
  if (level === 3) {
    const pdpte = vcpu.mmu.pdptes[Math.floor(addr / 2 ** 30) & 3] as U64;
    if (tracepoints) vcpu.vm.emit({ name: "kvm_mmu_paging_element", pte: pdpte, level });
    if (!isPresent(pdpte)) return walkFault(mode, addr, access, 0);
    table = guestEntryFrame(mode, pdpte, level);
    level--;
  }
  let rights = bits.all;
  for (; ; level--) {
    const entry = yield* readGpte(vcpu, gfn(table), page, level, rights);
    if (entry === null) return walkFault(mode, addr, access, 0);
    const { pte } = entry;
    if (tracepoints) vcpu.vm.emit({ name: "kvm_mmu_paging_element", pte, level });
    if (!isPresent(pte)) return walkFault(mode, addr, access, 0);
    if (hasReservedBits(mode, pte, level)) return walkFault(mode, addr, access, PFERR_RSVD | PFERR_PRESENT);
    entries.push(entry);
    rights &= gpteAccess(bits, pte);
    if (isLastGuestEntry(mode, pte, level)) break;
    table = guestEntryFrame(mode, pte, level);
  }
  const denied = permissionFault(bits, mode, rights, access);
  if (denied !== 0) return walkFault(mode, addr, access, denied);
  const updated = yield* updateAccessedDirtyBits(vcpu, entries, level, write);
  if (updated === "fault") return walkFault(mode, addr, access, 0);
  if (updated === "changed") return "retry";
  const leaf = entries[entries.length - 1] as WalkedEntry;
  const inPage = page & (guestPagesPerEntry(mode, level) - 1);
  return {
    kind: "walk",
    level,
    gfn: gfn(guestEntryFrame(mode, leaf.pte, level) + inPage),
    pteAccess: write ? rights : protectCleanGpte(bits, rights, leaf.pte),
    entries,
  };
}

/** FNAME(protect_clean_gpte): a page whose entry is not dirty is mapped read-only, so that the first write is seen and sets its D bit. */
export function protectCleanGpte(bits: AccessBits, access: number, gpte: U64): number {
  return isDirty(gpte) ? access : access & ~bits.write;
}

function walkFault(mode: PagingMode, address: Gva, access: number, extra: number): WalkFault {
  const fetch = mode.nx || mode.smep ? access & PFERR_FETCH : 0;
  return { kind: "fault", address, errorCode: extra | (access & (PFERR_WRITE | PFERR_USER)) | fetch };
}

/** Reads one entry; null when its table is in no memslot. @param page number of the page of the address space that is walked to */
function* readGpte(
  vcpu: Vcpu,
  tableGfn: Gfn,
  page: number,
  level: number,
  ptAccess: number,
): Steps<WalkedEntry | null> {
  const { mode } = vcpu.guest;
  const { kvm } = vcpu.vm;
  const size = guestEntrySize(mode);
  const offset = size * guestTableIndex(mode, page, level);
  const slot = yield* gfnToMemslot(kvm.memslots, tableGfn);
  if (slot === null) return null;
  const flags = slot.flags.value;
  if ((flags & KVM_MEMSLOT_INVALID) !== 0) return null;
  const hva = (gfnToHva(slot, tableGfn) + offset) as Hva;
  const pte = yield* getUser(kvm.mm, hva, size);
  if (pte === null) return null;
  const writable = (flags & KVM_MEM_READONLY) === 0;
  return { level, tableGfn, gpa: (tableGfn * PAGE_SIZE + offset) as Gpa, hva, writable, pte, ptAccess };
}

/** FNAME(update_accessed_dirty_bits). An entry that has changed makes the walk start over; one that cannot be written is as good as none. */
function* updateAccessedDirtyBits(
  vcpu: Vcpu,
  entries: readonly WalkedEntry[],
  leaf: number,
  write: boolean,
): Steps<"done" | "changed" | "fault"> {
  const { kvm } = vcpu.vm;
  const size = guestEntrySize(vcpu.guest.mode);
  const compareExchange = kvm.lacks("gpte-cmpxchg-on-guessed-frame") ? cmpxchgGpteByFrame : tryCmpxchgUser;
  // From the top down, as they were read.
  for (let i = 0; i < entries.length; i++) {
    const entry = entries[i] as WalkedEntry;
    const old = entry.pte;
    let pte = old;
    if (!isAccessed(pte)) {
      if (vcpu.world.tracepoints) vcpu.vm.emit({ name: "kvm_mmu_set_accessed_bit", gpa: entry.gpa });
      pte = orU64(pte, PT_ACCESSED_MASK);
    }
    if (entry.level === leaf && write && !isDirty(pte)) {
      if (vcpu.world.tracepoints) vcpu.vm.emit({ name: "kvm_mmu_set_dirty_bit", gpa: entry.gpa });
      pte = orU64(pte, PT_DIRTY_MASK);
    }
    // Tables in a read-only memslot keep the bits that they have.
    if (sameU64(pte, old) || !entry.writable) continue;
    const found = yield* compareExchange(kvm.mm, entry.hva, size, old, pte);
    if (found === null) return "fault";
    if (!sameU64(found, old)) return "changed";
    yield* kvmVcpuMarkPageDirty(vcpu, entry.tableGfn);
    entry.pte = pte;
  }
  return "done";
}

/**
 * cmpxchg_gpte() before 2a8859f373b0 (5.18): on the frame, not on the user's address. What get_user_pages() does not give is taken to be remap_pfn_range()'s
 * work: the frame follows from the VMA, whatever the page tables say; mmap_lock keeps the VMA, and nothing the mapping.
 */
function* cmpxchgGpteByFrame(mm: Mm, addr: Hva, size: 4 | 8, old: U64, replacement: U64): Steps<U64 | null> {
  const inPage = offsetInPage(addr);
  const page = yield* getUserPageFast(mm, (addr - inPage) as Hva, true);
  if (page !== null) {
    const found = yield* compareExchangeAt(mm.world, page.pfn * PAGE_SIZE + inPage, size, old, replacement);
    yield* putPage(mm.frames, page.pfn);
    return found;
  }
  yield* readLock(mm.mmapLock);
  const vma = vmaAt(mm, addr);
  let found: U64 | null = null;
  if (vma !== null && (vma.vm_flags.value & VM_PFNMAP) !== 0) {
    const guess = vma.vm_pgoff.value + Math.floor((addr - vma.vm_start.value) / PAGE_SIZE);
    found = yield* compareExchangeAt(mm.world, guess * PAGE_SIZE + inPage, size, old, replacement);
  }
  yield* readUnlock(mm.mmapLock);
  return found;
}

/**
 * kvm_mmu->gva_to_gpa(): the guest-physical address, or the guest's own page fault.
 * @param access PFERR_WRITE, _USER, _FETCH
 */
export function* gvaToGpa(vcpu: Vcpu, addr: Gva, access: number): Steps<Gpa | WalkFault> {
  if (!vcpu.guest.mode.paging) return addr as number as Gpa;
  const walk = yield* walkAddr(vcpu, addr, access);
  if (walk.kind === "fault") return walk;
  return (walk.gfn * PAGE_SIZE + offsetInPage(addr)) as Gpa;
}

/** kvm_vcpu_read_guest_atomic() of one aligned word: null where that would have to sleep, and where there is no memory. */
export function readGuestAtomic(vcpu: Vcpu, gpa: Gpa, size: 4 | 8): Steps<U64 | null> {
  return readGuest(vcpu, gpa, size, true);
}

/** kvm_vcpu_read_guest_atomic() of words in a row inside one page. */
export function* readGuestWordsAtomic(vcpu: Vcpu, gpa: Gpa, size: 4 | 8, count: number): Steps<U64[] | null> {
  const { kvm } = vcpu.vm;
  const frame = gpaToGfn(gpa);
  const slot = yield* gfnToMemslot(kvm.memslots, frame);
  if (!isVisibleMemslot(slot)) return null;
  return yield* getUserWords(kvm.mm, (gfnToHva(slot, frame) + offsetInPage(gpa)) as Hva, size, count);
}

/** kvm_vcpu_read_guest() of one aligned word: null where there is no memory. @param atomic may not sleep: null for a page that is not there */
function* readGuest(vcpu: Vcpu, gpa: Gpa, size: 4 | 8, atomic: boolean): Steps<U64 | null> {
  const { kvm } = vcpu.vm;
  const frame = gpaToGfn(gpa);
  const slot = yield* gfnToMemslot(kvm.memslots, frame);
  if (!isVisibleMemslot(slot)) return null;
  return yield* getUser(kvm.mm, (gfnToHva(slot, frame) + offsetInPage(gpa)) as Hva, size, atomic);
}

/** load_pdptrs(): reads the four PDPTEs that CR3 points at; false when one of them is not valid. */
export function* loadPdptrs(vcpu: Vcpu, cr3: number): Steps<boolean> {
  const { mode } = vcpu.guest;
  const at = cr3 - (cr3 % 32);
  const pdptes: U64[] = [];
  for (let i = 0; i < 4; i++) {
    const pdpte = yield* readGuest(vcpu, (at + 8 * i) as Gpa, 8, false);
    if (pdpte === null) return false;
    if (isPresent(pdpte) && hasReservedBits(mode, pdpte, 3)) return false;
    pdptes.push(pdpte);
  }
  vcpu.mmu.pdptes = pdptes;
  return true;
}
