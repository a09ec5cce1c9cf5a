/**
 * The bits of SPTEs by mode of paging and kernel: NPT, EPT with accessed and dirty bits, EPT without.
 *
 *              NPT              EPT, 6.12                     EPT, 7.2
 *     P        0                63 (suppress #VE)             63 (suppress #VE)
 *     R        -                0, as the "user" bit          0, from ACC_READ
 *     W        1                1                             1
 *     X        not 63           2                             2, and 10 for user mode
 *     U        2                -                             -
 *     A, D     5, 6             8, 9 if the CPU has them      8, 9, kept by software if not
 *     type     -                3..5, and 6 to ignore PAT     the same
 *     host-W   9                57                            53
 *     MMU-W    10               58                            55
 *     A/D type -                52..53                        60..61
 *     R, X put aside for access tracking    54, 56            52, 54, and 62
 *
 * The EPT columns are those of a CPU that allows execute-only mappings. Stands for kvm_mmu_reset_all_pte_masks() and kvm_mmu_set_ept_masks().
 */
import { andU64, assert, bitU64, orU64, sameU64, testU64, type U64, U64_ZERO, u64 } from "../engine/index.ts";
import {
  EPT_FORMAT,
  EPT_NO_AD_FORMAT,
  type NestedFormat,
  NPT_FORMAT,
  PT_ACCESSED_MASK,
  PT_DIRTY_MASK,
  PT_PRESENT_MASK,
  PT_USER_MASK,
  PT_WRITABLE_MASK,
  PT64_NX_MASK,
} from "../machine/index.ts";
import type { KernelVersion, Paging } from "./variants.ts";

export const SPTE_MMU_PRESENT_MASK: U64 = bitU64(11);

/** The masks of one mode of paging in one kernel. */
export interface SpteLayout {
  readonly kernel: KernelVersion;
  readonly paging: Paging;
  /** How the hardware reads the entries. */
  readonly format: NestedFormat;
  /** kvm_ad_enabled(): the CPU keeps accessed and dirty bits. */
  readonly adEnabled: boolean;
  /** shadow_present_mask and so on. */
  readonly present: U64;
  /** What ACC_READ adds. */
  readonly read: U64;
  readonly user: U64;
  /** shadow_x_mask: bits that allow execution; shadow_nx_mask: a bit that forbids it. */
  readonly exec: U64;
  readonly nx: U64;
  readonly accessed: U64;
  readonly dirty: U64;
  /** Write-back, with the guest's PAT ignored. */
  readonly memoryType: U64;
  readonly hostWritable: U64;
  readonly mmuWritable: U64;
  /** SPTE_TDP_AD_MASK, _DISABLED, _WRPROT_ONLY */
  readonly adType: U64;
  readonly adDisabled: U64;
  readonly adWrprotOnly: U64;
  /** shadow_acc_track_mask: without any of these the entry is access-tracked. */
  readonly accTrack: U64;
  /** SHADOW_ACC_TRACK_SAVED_BITS_MASK and _SHIFT */
  readonly savedRights: number;
  readonly savedShift: number;
  /** What make_spte() has made so far, by what decides it. */
  readonly leafBits: U64[];
  /** SHADOW_NONPRESENT_VALUE */
  readonly nonPresent: U64;
  /** FROZEN_SPTE */
  readonly frozen: U64;
  /** shadow_mmio_value and shadow_mmio_mask: what shows an entry to be MMIO, and makes the hardware fault on it. */
  readonly mmioValue: U64;
  readonly mmioMask: U64;
  /** shadow_mmio_access_mask: rights that such an entry keeps for the emulator. */
  readonly mmioAccess: number;
}

const bits = (...numbers: readonly number[]): U64 => numbers.map(bitU64).reduce(orU64, U64_ZERO);

/** Also bit 63 of EPT entries: a violation there is an exit, not a #VE of the guest. */
const NON_PRESENT: U64 = bitU64(63);
const FROZEN_LOW: Readonly<Record<KernelVersion, number>> = { "6.12": 0x5a0, "7.2": 0x1a0 };

function commonBits(kernel: KernelVersion): Pick<SpteLayout, "kernel" | "leafBits" | "nonPresent" | "frozen"> {
  return { kernel, leafBits: [], nonPresent: NON_PRESENT, frozen: orU64(NON_PRESENT, u64(0, FROZEN_LOW[kernel])) };
}

function adTypes(first: number): Pick<SpteLayout, "adType" | "adDisabled" | "adWrprotOnly"> {
  return { adType: bits(first, first + 1), adDisabled: bitU64(first), adWrprotOnly: bitU64(first + 1) };
}

function nptLayout(kernel: KernelVersion): SpteLayout {
  return {
    ...commonBits(kernel),
    paging: "npt",
    format: NPT_FORMAT,
    adEnabled: true,
    present: PT_PRESENT_MASK,
    read: U64_ZERO,
    user: PT_USER_MASK,
    exec: U64_ZERO,
    nx: PT64_NX_MASK,
    accessed: PT_ACCESSED_MASK,
    dirty: PT_DIRTY_MASK,
    memoryType: U64_ZERO,
    hostWritable: bitU64(9),
    mmuWritable: bitU64(10),
    ...adTypes(kernel === "6.12" ? 52 : 60),
    accTrack: U64_ZERO,
    savedRights: 0,
    savedShift: kernel === "6.12" ? 54 : 52,
    // A reserved address bit, on a CPU with fewer than 52.
    mmioValue: bits(0, 51),
    mmioMask: bits(0, 51),
    mmioAccess: 6,
  };
}

function eptLayout(kernel: KernelVersion, adEnabled: boolean): SpteLayout {
  const isNewer = kernel === "7.2";
  const exec = isNewer ? bits(2, 10) : bitU64(2);
  return {
    ...commonBits(kernel),
    paging: adEnabled ? "ept" : "ept-no-ad",
    format: adEnabled ? EPT_FORMAT : EPT_NO_AD_FORMAT,
    adEnabled,
    present: bitU64(63),
    read: isNewer ? bitU64(0) : U64_ZERO,
    user: isNewer ? U64_ZERO : bitU64(0),
    exec,
    nx: U64_ZERO,
    // Before 7.2 there are no such bits where the CPU has none.
    accessed: adEnabled || isNewer ? bitU64(8) : U64_ZERO,
    dirty: adEnabled || isNewer ? bitU64(9) : U64_ZERO,
    memoryType: bits(4, 5, 6),
    hostWritable: bitU64(isNewer ? 53 : 57),
    mmuWritable: bitU64(isNewer ? 55 : 58),
    ...adTypes(isNewer ? 60 : 52),
    accTrack: orU64(bits(0, 1), exec),
    savedRights: isNewer ? 0x405 : 0x5,
    savedShift: isNewer ? 52 : 54,
    // W and X without R: a misconfiguration, which exits whatever the access.
    mmioValue: bits(1, 2),
    mmioMask: bits(0, 1, 2, 63),
    mmioAccess: 0,
  };
}

const KERNELS = ["6.12", "7.2"] as const;
const LAYOUTS: readonly SpteLayout[] = KERNELS.flatMap((kernel) => [
  nptLayout(kernel),
  eptLayout(kernel, true),
  eptLayout(kernel, false),
]);

/** @throws EngineBug for a combination that is not in the table */
export function spteLayout(kernel: KernelVersion, paging: Paging): SpteLayout {
  const found = LAYOUTS.find((layout) => layout.kernel === kernel && layout.paging === paging);
  assert(found !== undefined, `no SPTE layout for ${kernel}, ${paging}`);
  return found;
}

/** Every layout there is; for tests. */
export const SPTE_LAYOUTS = LAYOUTS;

for (const layout of LAYOUTS) {
  const { frozen, hostWritable, mmuWritable, adType, accTrack, savedRights, savedShift } = layout;
  const saved = u64(savedRights << (savedShift - 32), 0);
  const frame = u64(0x000fffff, 0xfffff000);
  const software = [SPTE_MMU_PRESENT_MASK, hostWritable, mmuWritable, adType, saved];
  const hardware = [layout.read, layout.user, layout.exec, layout.nx, layout.accessed, layout.dirty, layout.memoryType];
  assert(!testU64(frozen, SPTE_MMU_PRESENT_MASK), "a frozen SPTE must not look present");
  assert(
    !testU64(frozen, orU64(orU64(accTrack, PT_WRITABLE_MASK), frame)),
    "a frozen SPTE grants nothing and has no frame",
  );
  for (const [i, mask] of software.entries()) {
    const others = [frame, PT_WRITABLE_MASK, ...hardware, ...software.slice(i + 1)].reduce(orU64, U64_ZERO);
    assert(
      sameU64(andU64(mask, others), U64_ZERO),
      `software bits overlap others (${layout.kernel}, ${layout.paging})`,
    );
  }
}
