/**
 * A write that KVM has made for the guest, to a frame whose table is shadowed.
 *
 *     whole entries        the shadow entries of those that were written are zapped; the next access builds them anew
 *     odd ones             a write across entries, or of less than an entry: hardly a page table any more; its shadow pages are zapped
 *     again and again      three writes to an upper table without a walk through it in between: likewise
 *
 * The shadow MMU itself never reads what was written here: it reads the guest's table when it next needs to. Stands for kvm_mmu_track_write(),
 * __kvm_mmu_unprotect_gfn_and_retry() of 6.12 and 7.2.
 */
import { fence, load, loadEntry, type Steps, sameU64, store, type U64, U64_ZERO } from "../../engine/index.ts";
import { writeLock, writeUnlock } from "../../kernel/index.ts";
import {
  type Gfn,
  type Gpa,
  type Gva,
  gpaToGfn,
  PAGE_SIZE,
  PFERR_WRITE,
  PG_LEVEL_2M,
  PG_LEVEL_4K,
} from "../../machine/index.ts";
import { ROLE_HAS_4_BYTE_GPTE, roleQuadrant } from "../cpu-role.ts";
import { gvaToGpa, readGuestAtomic } from "../guest-walk.ts";
import { isShadowPresentPte } from "../spte.ts";
import type { Vcpu } from "../vcpu.ts";
import { type ShadowPage, spLevel, spteOf } from "./page.ts";
import type { ShadowMmu } from "./shadow-mmu.ts";
import { commitZapPage, type InvalidList, mmuPageZapPte, prepareZapPage, remoteFlushOrZap } from "./zap.ts";

/** kvm_mmu_track_write(), after the bytes are in guest memory. */
export function* kvmMmuTrackWrite(vcpu: Vcpu, shadow: ShadowMmu, gpa: Gpa, bytes: number): Steps<void> {
  // The bytes are visible before the look: a fault that makes a shadow page counts it first and reads the entry second.
  if (shadow.kernel === "7.2") yield* fence(shadow.world);
  if ((yield* load(shadow.indirectShadowPages)) === 0) return;
  yield* writeLock(shadow.kvm.mmuLock);
  const write = yield* writtenEntry(vcpu, gpa, bytes);
  shadow.count("mmu_pte_write", 1);
  const list: InvalidList = [];
  let flush = false;
  for (const sp of shadow.validPagesOf(gpaToGfn(gpa))) {
    if (isMisaligned(sp, write) || (yield* isFlooding(sp))) {
      yield* prepareZapPage(shadow, sp, list);
      shadow.count("mmu_flooded", 1);
      continue;
    }
    if (yield* zapWritten(shadow, sp, write)) flush = true;
  }
  yield* remoteFlushOrZap(shadow, list, flush);
  yield* writeUnlock(shadow.kvm.mmuLock);
}

interface WrittenEntry {
  readonly gpa: Gpa;
  readonly bytes: number;
  /** What stands there now; zero when that is not known. */
  readonly gpte: U64;
}

/** mmu_pte_write_fetch_gpte(): half an entry of eight bytes stands for the whole. */
function* writtenEntry(vcpu: Vcpu, gpa: Gpa, bytes: number): Steps<WrittenEntry> {
  const isHalf = vcpu.guest.mode.pae && bytes === 4;
  const at = (isHalf ? gpa - (gpa % 8) : gpa) as Gpa;
  const size = isHalf ? 8 : bytes;
  if ((size !== 4 && size !== 8) || at % size !== 0) return { gpa: at, bytes: size, gpte: U64_ZERO };
  return { gpa: at, bytes: size, gpte: (yield* readGuestAtomic(vcpu, at, size)) ?? U64_ZERO };
}

/** detect_write_misaligned(). A single byte at an entry's start is a guest that changes its A or D bit. */
function isMisaligned(sp: ShadowPage, { gpa, bytes }: WrittenEntry): boolean {
  const entry = (sp.role.value & ROLE_HAS_4_BYTE_GPTE) !== 0 ? 4 : 8;
  const offset = gpa % PAGE_SIZE;
  if (offset % entry === 0 && bytes === 1) return false;
  const crosses = Math.floor(offset / entry) !== Math.floor((offset + bytes - 1) / entry);
  return crosses || bytes < 4;
}

const FLOOD = 3;

/** detect_write_flooding(). The last level is left out: it becomes unsync and is written directly. */
function* isFlooding(sp: ShadowPage): Steps<boolean> {
  if (spLevel(sp) === PG_LEVEL_4K) return false;
  const count = (yield* load(sp.write_flooding_count)) + 1;
  yield* store(sp.write_flooding_count, count);
  return count >= FLOOD;
}

/** get_written_sptes(): the entries that stand for what was written; none if the page shadows another quadrant. */
function writtenIndexes(sp: ShadowPage, gpa: Gpa): readonly number[] {
  const offset = gpa % PAGE_SIZE;
  if ((sp.role.value & ROLE_HAS_4_BYTE_GPTE) === 0) return [Math.floor(offset / 8)];
  // Entries of eight bytes for entries of four: twice the place. One that maps 4M stands in two entries of 2M.
  const isDirectory = spLevel(sp) === PG_LEVEL_2M;
  const place = isDirectory ? (2 * offset - ((2 * offset) % 8)) * 2 : 2 * offset;
  if (Math.floor(place / PAGE_SIZE) !== roleQuadrant(sp.role.value)) return [];
  const index = Math.floor((place % PAGE_SIZE) / 8);
  return isDirectory ? [index, index + 1] : [index];
}

function* zapWritten(shadow: ShadowMmu, sp: ShadowPage, { gpa, gpte }: WrittenEntry): Steps<boolean> {
  let flush = false;
  for (const index of writtenIndexes(sp, gpa)) {
    const sptep = spteOf(sp, index);
    const spte = yield* loadEntry(shadow.world, sptep);
    yield* mmuPageZapPte(shadow, sp, sptep);
    if (!sameU64(gpte, U64_ZERO) && spLevel(sp) !== PG_LEVEL_4K) shadow.count("mmu_pde_zapped", 1);
    if (isShadowPresentPte(spte)) flush = true;
  }
  return flush;
}

// --- giving up a shadow page so that the guest can write -------------------------------------------------------------

/** kvm_mmu_unprotect_page(), its core: zaps the pages that shadow the frame; true when there were any. */
export function* unprotectGfn(shadow: ShadowMmu, gfn: Gfn): Steps<boolean> {
  const list: InvalidList = [];
  yield* writeLock(shadow.kvm.mmuLock);
  for (const sp of shadow.validPagesOf(gfn)) yield* prepareZapPage(shadow, sp, list);
  const found = list.length > 0;
  yield* commitZapPage(shadow, list);
  yield* writeUnlock(shadow.kvm.mmuLock);
  return found;
}

/**
 * __kvm_mmu_unprotect_gfn_and_retry(): true when the guest should just try again. Where it did so is remembered: the same instruction at the same
 * address is not let try twice.
 * @param always count it as a retry even when nothing was zapped
 */
export function* kvmMmuUnprotectGfnAndRetry(
  vcpu: Vcpu,
  shadow: ShadowMmu,
  addr: number,
  always = false,
): Steps<boolean> {
  let found = false;
  if ((yield* load(shadow.indirectShadowPages)) !== 0) {
    const gpa = vcpu.isDirectMmu ? (addr as Gpa) : yield* gvaToGpa(vcpu, addr as Gva, PFERR_WRITE);
    if (typeof gpa === "number") found = yield* unprotectGfn(shadow, gpaToGfn(gpa));
  }
  if (found || always) {
    vcpu.mmu.lastRetryRip.value = vcpu.guest.rip;
    vcpu.mmu.lastRetryAddr.value = addr;
  }
  return found || always;
}
