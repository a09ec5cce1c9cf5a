/**
 * The texts of KVM's MMU tracepoints, taken apart (reference/tracepoints.md, sections 2 to 5).
 *
 * Everything that has to look inside an event does it here: the comparator's canonical form, the invariants, and the extraction of
 * what the host decided. A text that has not the expected form gives null: it is then compared as it is, and noticed there.
 *
 * SPTEs are decoded as on AMD, legacy and NPT (reference/kvm-mmu.md, section 3); the bits used here are the same in 6.12 and 7.2:
 *
 *     63  62..52   51..12         11        10      9       7      6..5  2  1  0
 *     NX  .        frame number   present   MMU-W   host-W  large  D A   U  W  P
 *
 *     bit 11 clear: not present for KVM. Then bit 51 set means MMIO (a generation and a guest address), anything else is literal:
 *     8000000000000000 non-present, 80000000000005a0 (6.12) or 80000000000001a0 (7.2) frozen.
 */
import { parseHexU64, type U64, u64, u64ToNumber } from "../engine/index.ts";

const PRESENT_LO = 1 << 11;
const MMU_WRITABLE_LO = 1 << 10;
const HOST_WRITABLE_LO = 1 << 9;
const LARGE_LO = 1 << 7;
const WRITABLE_LO = 1 << 1;
const MMIO_HI = 1 << (51 - 32);
/** Bits 12 to 51. */
const FRAME_LO = 0xffff_f000;
const FRAME_HI = 0x000f_ffff;

/** True when KVM holds the entry to be present (`is_shadow_present_pte()`). */
export const isPresent = (spte: U64): boolean => (spte.lo & PRESENT_LO) !== 0;

/** True when a present entry at `level` maps memory (`is_last_spte()`). */
export const isLeaf = (spte: U64, level: number): boolean =>
  isPresent(spte) && (level === 1 || (spte.lo & LARGE_LO) !== 0);

/** True for an entry that caches "no memory here". */
export const isMmio = (spte: U64): boolean => !isPresent(spte) && (spte.hi & MMIO_HI) !== 0;

/** True for the marker in the entries of an unlinked table: not present, but not the plain non-present value either. */
export const isFrozen = (spte: U64): boolean => !isPresent(spte) && !isMmio(spte) && spte.lo !== 0;

export const isWritable = (spte: U64): boolean => (spte.lo & WRITABLE_LO) !== 0;
export const isMmuWritable = (spte: U64): boolean => (spte.lo & MMU_WRITABLE_LO) !== 0;
export const isHostWritable = (spte: U64): boolean => (spte.lo & HOST_WRITABLE_LO) !== 0;

/** The frame number of a present entry: of a page, or of the next table. */
export function frameOf(spte: U64): number {
  return (spte.hi & FRAME_HI) * 0x10_0000 + ((spte.lo & FRAME_LO) >>> 12);
}

/** The other bits of a present entry. */
export function withoutFrame(spte: U64): U64 {
  return u64(spte.hi & ~FRAME_HI, spte.lo & ~FRAME_LO);
}

/** What an MMIO SPTE holds: the memslot generation it was made in, the guest frame, and its other bits. */
export interface MmioParts {
  readonly generation: number;
  readonly gfn: number;
  readonly bits: U64;
}

/**
 * Takes an MMIO SPTE apart. The generation's low part lies from bit 3 on (8 bits up to 6.x, 7 bits in 7.x), its high 11 bits from bit 52.
 *
 * @param kernel `v6.12`, `v7.2`
 */
export function mmioParts(spte: U64, kernel: string): MmioParts {
  const lowBits = Number(/\d+/.exec(kernel)?.[0] ?? 7) >= 7 ? 7 : 8;
  const low = (spte.lo >>> 3) & ((1 << lowBits) - 1);
  const high = (spte.hi >>> 20) & 0x7ff;
  const address = { hi: spte.hi & FRAME_HI & ~MMIO_HI, lo: spte.lo & FRAME_LO };
  const generationBits = { hi: 0x7ff << 20, lo: ((1 << lowBits) - 1) << 3 };
  const hi = spte.hi & ~generationBits.hi & ~address.hi;
  const lo = spte.lo & ~generationBits.lo & ~address.lo;
  return { generation: high * (1 << lowBits) + low, gfn: frameOf(u64(address.hi, address.lo)), bits: u64(hi, lo) };
}

/** kvm_tdp_mmu_spte_changed */
export interface SpteChanged {
  readonly asId: number;
  readonly gfn: number;
  readonly level: number;
  readonly oldSpte: U64;
  readonly newSpte: U64;
}

export function parseSpteChanged(text: string): SpteChanged | null {
  const m = /^as id (\d+) gfn ([0-9a-f]+) level (\d+) old_spte ([0-9a-f]+) new_spte ([0-9a-f]+)\s*$/.exec(text);
  if (m === null) return null;
  const [, asId, gfn, level, oldSpte, newSpte] = m as unknown as readonly string[];
  return {
    asId: Number(asId),
    gfn: hex(gfn),
    level: Number(level),
    oldSpte: parseHexU64(oldSpte as string),
    newSpte: parseHexU64(newSpte as string),
  };
}

/** kvm_mmu_set_spte; `table` is the frame of the table that holds the entry, `offset` the entry's place in it in bytes. */
export interface SetSpte {
  readonly gfn: number;
  readonly spte: U64;
  readonly access: string;
  readonly level: number;
  readonly table: number;
  readonly offset: number;
}

export function parseSetSpte(text: string): SetSpte | null {
  const m = /^gfn ([0-9a-f]+) spte ([0-9a-f]+) \(([^)]*)\) level (\d+) at ([0-9a-f]+)\s*$/.exec(text);
  if (m === null) return null;
  const [, gfn, spte, access, level, at] = m as unknown as readonly string[];
  const address = hex(at);
  return {
    gfn: hex(gfn),
    spte: parseHexU64(spte as string),
    access: access as string,
    level: Number(level),
    table: Math.floor(address / 4096),
    offset: address % 4096,
  };
}

/** kvm_mmu_spte_requested; `pfn` null: no memslot there (an error value of kvm_pfn_t). */
export interface SpteRequested {
  readonly gfn: number;
  readonly pfn: number | null;
  readonly level: number;
}

export function parseSpteRequested(text: string): SpteRequested | null {
  const m = /^gfn ([0-9a-f]+) pfn ([0-9a-f]+) level (\d+)(?: access [0-9a-f]+)?\s*$/.exec(text);
  if (m === null) return null;
  return { gfn: hex(m[1]), pfn: parsePfn(m[2] as string), level: Number(m[3]) };
}

/** @returns null for an error value (bits 52 to 63 in use): KVM_PFN_NOSLOT and KVM_PFN_ERR_* */
export function parsePfn(text: string): number | null {
  const pfn = parseHexU64(text);
  return pfn.hi >>> 0 > FRAME_HI ? null : u64ToNumber(pfn);
}

/** kvm_page_fault; `address` is guest-physical with NPT, guest-virtual with shadow paging. */
export interface PageFault {
  readonly vcpu: number;
  readonly rip: number;
  readonly address: number;
  readonly errorCode: U64;
}

export function parsePageFault(text: string): PageFault | null {
  const m = /^vcpu (\d+) rip 0x([0-9a-f]+) address 0x([0-9a-f]+) error_code 0x([0-9a-f]+)\s*$/.exec(text);
  if (m === null) return null;
  return { vcpu: Number(m[1]), rip: hex(m[2]), address: hex(m[3]), errorCode: parseHexU64(m[4] as string) };
}

/** fast_page_fault */
export interface FastPageFault {
  readonly vcpu: number;
  readonly oldSpte: U64;
  readonly newSpte: U64;
  readonly fixed: boolean;
}

export function parseFastPageFault(text: string): FastPageFault | null {
  const m = /^vcpu (\d+) gva .* old (?:0x)?([0-9a-f]+) new (?:0x)?([0-9a-f]+) spurious \d+ fixed (\d+)\s*$/.exec(text);
  if (m === null) return null;
  const [, vcpu, oldSpte, newSpte, fixed] = m as unknown as readonly string[];
  return {
    vcpu: Number(vcpu),
    oldSpte: parseHexU64(oldSpte as string),
    newSpte: parseHexU64(newSpte as string),
    fixed: fixed === "1",
  };
}

/** A shadow or TDP page as get_page, sync_page, unsync_page and prepare_zap_page print it. */
export interface ShadowPage {
  /** What tells pages apart as far as the text does: everything but the root count and the state at the moment. */
  readonly key: string;
  readonly gfn: number;
  readonly level: number;
  readonly invalid: boolean;
  /** get_page: allocated, rather than found. */
  readonly made: boolean;
}

export function parseShadowPage(text: string): ShadowPage | null {
  const m =
    /^sp (gen \d+ )gfn ([0-9a-f]+) l(\d+) (.*?)( invalid)? (!?nxe !?ad) root \d+ (?:un)?sync(?: (new|existing))?\s*$/.exec(
      text,
    );
  if (m === null) return null;
  const [, generation, gfn, level, role, invalid, flags, found] = m as unknown as readonly (string | undefined)[];
  const key = `${generation}gfn ${gfn} l${level} ${role} ${flags}`;
  return { key, gfn: hex(gfn), level: Number(level), invalid: invalid !== undefined, made: found === "new" };
}

/** An address range of the host in an event: kvm_unmap_hva_range, kvm_age_hva, kvm_test_age_hva. `end` exclusive. */
export function parseHostRange(text: string): { readonly start: number; readonly end: number } | null {
  const m = /: 0x([0-9a-f]+)(?: -- 0x([0-9a-f]+))?\s*$/.exec(text);
  if (m === null) return null;
  return { start: hex(m[1]), end: m[2] === undefined ? hex(m[1]) + 1 : hex(m[2]) };
}

function hex(digits: string | undefined): number {
  return Number.parseInt(digits ?? "", 16);
}

/** Tracepoints whose names do not begin with kvm_. */
const OTHER_TRACEPOINTS: ReadonlySet<string> = new Set([
  "fast_page_fault",
  "mark_mmio_spte",
  "handle_mmio_page_fault",
  "check_mmio_spte",
  "vcpu_match_mmio",
]);

/** What kind of line an event is: a tracepoint of KVM, a probe on the entry of a function, or a marker of the VMM. */
export function kindOf(event: string, text: string): "tracepoint" | "probe" | "marker" {
  if (event === "tracing_mark_write") return "marker";
  const named = event.startsWith("kvm_") || OTHER_TRACEPOINTS.has(event);
  return named && !text.startsWith("(") ? "tracepoint" : "probe";
}
