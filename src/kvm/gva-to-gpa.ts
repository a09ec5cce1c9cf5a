/**
 * KVM's own walk of the guest's page tables: for the emulator, which has an address that the guest used and needs to know where it lies.
 *
 * The tables are guest memory, read through the VMM's mapping of it. As the hardware does, the walk sets accessed bits on its way and the dirty bit
 * for a write. Stands for paging64_gva_to_gpa() with a 4-level guest of 6.12 and 7.2; permissions were checked by the access that exited.
 */
import { Cell, load, orU64, type Steps, sameU64, store, type U64 } from "../engine/index.ts";
import { getUserPage, type Mm, putPage } from "../kernel/index.ts";
import {
  entryFrame,
  type Gpa,
  type Gva,
  gpaToGfn,
  hasPageSize,
  isPresent,
  PAGE_SIZE,
  PFERR_WRITE,
  PG_LEVEL_4K,
  PT_ACCESSED_MASK,
  PT_DIRTY_MASK,
  pagesPerLevel,
  pfnToHpa,
  tableIndex,
} from "../machine/index.ts";
import { kvmVcpuMarkPageDirty } from "./dirty-log.ts";
import { gfnToHva, gfnToMemslot } from "./memslots.ts";
import type { Vcpu } from "./vcpu.ts";

const ROOT_LEVEL = 4;

interface WalkedEntry {
  readonly gpa: Gpa;
  readonly cell: Cell<U64>;
  readonly entry: U64;
}

/** kvm_mmu_gva_to_gpa_fetch() and so on: null when the guest's tables do not map the address. @param access PFERR_* of the access */
export function* kvmMmuGvaToGpa(vcpu: Vcpu, gva: Gva, access: number): Steps<Gpa | null> {
  const { mode } = vcpu.guest;
  if (!mode.paging) return gva as number as Gpa;
  vcpu.vm.emit({ name: "kvm_mmu_pagetable_walk", addr: gva, pferr: access });
  const frame = Math.floor(gva / PAGE_SIZE);
  const path: WalkedEntry[] = [];
  let table = mode.cr3 as number;
  for (let level = ROOT_LEVEL; ; level--) {
    const place = (table + 8 * tableIndex(frame, level)) as Gpa;
    const cell = yield* guestWord(vcpu, place);
    if (cell === null) return null;
    const entry = yield* load(cell);
    vcpu.vm.emit({ name: "kvm_mmu_paging_element", pte: entry, level });
    if (!isPresent(entry)) return null;
    path.push({ gpa: place, cell, entry });
    table = entryFrame(entry) * PAGE_SIZE;
    if (level > PG_LEVEL_4K && !(level < ROOT_LEVEL && hasPageSize(entry))) continue;
    yield* updateAccessedDirtyBits(vcpu, path, (access & PFERR_WRITE) !== 0);
    const size = PAGE_SIZE * pagesPerLevel(level);
    return (table - (table % size) + (gva % size)) as Gpa;
  }
}

/** FNAME(update_accessed_dirty_bits) */
function* updateAccessedDirtyBits(vcpu: Vcpu, path: readonly WalkedEntry[], write: boolean): Steps<void> {
  for (const [i, { gpa, cell, entry }] of path.entries()) {
    let updated = orU64(entry, PT_ACCESSED_MASK);
    if (!sameU64(updated, entry)) vcpu.vm.emit({ name: "kvm_mmu_set_accessed_bit", gpa });
    if (write && i === path.length - 1) {
      const dirty = orU64(updated, PT_DIRTY_MASK);
      if (!sameU64(dirty, updated)) vcpu.vm.emit({ name: "kvm_mmu_set_dirty_bit", gpa });
      updated = dirty;
    }
    if (sameU64(updated, entry)) continue;
    yield* store(cell, updated);
    yield* kvmVcpuMarkPageDirty(vcpu, gpaToGfn(gpa));
  }
}

/** The eight bytes of guest memory there, as KVM reaches them; null when no memslot has them. */
function* guestWord(vcpu: Vcpu, gpa: Gpa): Steps<Cell<U64> | null> {
  const { kvm } = vcpu.vm;
  const slot = yield* gfnToMemslot(kvm.memslots, gpaToGfn(gpa));
  if (slot === null) return null;
  const frame = yield* frameOf(kvm.mm, gfnToHva(slot, gpaToGfn(gpa)));
  if (frame === null) return null;
  return new Cell<U64>(vcpu.world, pfnToHpa(frame) + (gpa % PAGE_SIZE), 8, true);
}

/** __get_user(): the page is nearly always there, since the guest has just used it. */
function* frameOf(mm: Mm, addr: ReturnType<typeof gfnToHva>): Steps<ReturnType<Mm["frameAt"]>> {
  const mapped = mm.mappedFrame(addr);
  if (mapped !== null) return mapped;
  const page = yield* getUserPage(mm, addr, false);
  if (page === null) return null;
  yield* putPage(mm.frames, page.pfn);
  return page.pfn;
}
