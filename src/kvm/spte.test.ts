/** SPTEs bit by bit, in every layout: NPT, EPT, EPT without accessed and dirty bits, of 6.12 and of 7.2. */
import { describe, expect, test } from "vitest";
import { hexU64, parseHexU64, type U64, u64 } from "../engine/index.ts";
import { type Pfn, PG_LEVEL_2M, PG_LEVEL_4K } from "../machine/index.ts";
import {
  checkSpteWritableInvariants,
  isAccessAllowed,
  isAccessedSpte,
  isAccessTrackSpte,
  isDirtySpte,
  isExecutablePte,
  isFrozenSpte,
  isShadowPresentPte,
  makeHugeSpte,
  makeNonleafSpte,
  makeSmallSpte,
  makeSpte,
  markSpteForAccessTrack,
  restoreAccTrackSpte,
  type SpteRequest,
  spteAdEnabled,
  spteHasVolatileBits,
  spteLayout,
  spteToPfn,
} from "./spte.ts";
import { SPTE_LAYOUTS } from "./spte-layout.ts";
import type { KernelVersion, Paging } from "./variants.ts";

const pfn = 0x12345 as Pfn;
const NONE: U64 = u64(0, 0);

/** A leaf of everything, made by a fault; `more` says what is otherwise. */
function leaf(kernel: KernelVersion, paging: Paging, more: Partial<SpteRequest> = {}): string {
  const request: SpteRequest = {
    level: PG_LEVEL_4K,
    pfn,
    hostWritable: true,
    write: true,
    exec: true,
    user: true,
    prefetch: false,
    synchronizing: false,
    mayWrite: true,
    old: NONE,
    nxHugePages: false,
    ...more,
  };
  return hexU64(makeSpte(spteLayout(kernel, paging), request));
}

const writable: U64 = u64(0, 0x802);
const huge = { level: PG_LEVEL_2M, pfn: 0x12200 as Pfn };

test.each([
  ["6.12", "npt", {}, "12345e67"],
  ["7.2", "npt", {}, "12345e67"],
  ["6.12", "npt", huge, "12200ee7"],
  ["6.12", "npt", { hostWritable: false }, "12345825"],
  ["6.12", "npt", { mayWrite: false }, "12345a25"],
  ["6.12", "npt", { write: false }, "12345a25"],
  ["6.12", "npt", { prefetch: true }, "12345e47"],
  ["6.12", "npt", { prefetch: true, synchronizing: true }, "12345e47"],
  ["7.2", "npt", { prefetch: true, synchronizing: true }, "12345e67"],
  ["6.12", "npt", { user: false }, "12345e63"],
  ["6.12", "npt", { exec: false }, "8000000012345e67"],
  ["6.12", "npt", { ...huge, nxHugePages: true }, "8000000012200ee7"],
  ["6.12", "npt", { nxHugePages: true }, "12345e67"],
  // Over a writable entry 6.12 leaves D clear.
  ["6.12", "npt", { old: writable }, "12345e27"],
  ["7.2", "npt", { old: writable }, "12345e67"],
  ["6.12", "npt", { old: writable, mayWrite: false }, "12345e27"],
  // A large old entry is no last one at level 2 unless it has the page-size bit.
  ["6.12", "npt", { ...huge, old: writable }, "12200ee7"],
  ["6.12", "ept", {}, "8600000012345b77"],
  ["6.12", "ept", huge, "8600000012200bf7"],
  ["6.12", "ept", { hostWritable: false }, "8000000012345975"],
  ["6.12", "ept", { mayWrite: false }, "8200000012345975"],
  ["6.12", "ept", { prefetch: true }, "8600000012345a77"],
  ["6.12", "ept", { exec: false }, "8600000012345b73"],
  ["6.12", "ept-no-ad", {}, "8610000012345877"],
  ["6.12", "ept-no-ad", { hostWritable: false }, "8010000012345875"],
  // Not accessed yet: R and X are put aside in bits 54 and 56, W is dropped.
  ["6.12", "ept-no-ad", { prefetch: true }, "8750000012345870"],
  ["7.2", "ept", {}, "80a0000012345f77"],
  ["7.2", "ept", huge, "80a0000012200ff7"],
  ["7.2", "ept", { prefetch: true }, "80a0000012345e77"],
  ["7.2", "ept-no-ad", {}, "90a0000012345f77"],
  ["7.2", "ept-no-ad", { prefetch: true }, "d0f0000012345a70"],
] as const)("make_spte, %s %s %o", (kernel, paging, more, expected) => {
  expect(leaf(kernel, paging, more)).toBe(expected);
});

test.each([
  ["6.12", "npt", "12345827"],
  ["7.2", "npt", "12345827"],
  ["6.12", "ept", "8000000012345907"],
  ["6.12", "ept-no-ad", "8010000012345807"],
  ["7.2", "ept", "8000000012345d07"],
  ["7.2", "ept-no-ad", "9000000012345c07"],
] as const)("make_nonleaf_spte, %s %s", (kernel, paging, expected) => {
  expect(hexU64(makeNonleafSpte(spteLayout(kernel, paging), pfn))).toBe(expected);
});

test.each([
  ["6.12", "80000000000005a0"],
  ["7.2", "80000000000001a0"],
] as const)("frozen and non-present values, %s", (kernel, frozen) => {
  for (const paging of ["npt", "ept", "ept-no-ad"] as const) {
    const layout = spteLayout(kernel, paging);
    expect(hexU64(layout.frozen)).toBe(frozen);
    expect(hexU64(layout.nonPresent)).toBe("8000000000000000");
    expect(isFrozenSpte(layout, layout.frozen)).toBe(true);
    for (const value of [layout.frozen, layout.nonPresent]) {
      expect(isShadowPresentPte(value)).toBe(false);
      expect(layout.format.isPresent(value)).toBe(false);
    }
  }
});

describe.each(SPTE_LAYOUTS.map((layout) => ({ layout, name: `${layout.kernel} ${layout.paging}` })))(
  "$name",
  ({ layout }) => {
    const made = (more: Partial<SpteRequest> = {}): U64 => parseHexU64(leaf(layout.kernel, layout.paging, more));

    test("the hardware allows what KVM means to allow", () => {
      const { format } = layout;
      expect(format.isMisconfigured(made())).toBe(false);
      for (const [spte, access, allowed] of [
        [made(), { write: true, exec: false }, true],
        [made(), { write: false, exec: true }, true],
        [made({ write: false }), { write: true, exec: false }, false],
        [made({ exec: false }), { write: false, exec: true }, false],
        [made({ exec: false }), { write: false, exec: false }, true],
      ] as const) {
        expect(isAccessAllowed(layout, access, spte)).toBe(allowed);
        const byHardware = access.exec
          ? format.isExecutable(spte)
          : access.write
            ? format.isWritable(spte)
            : format.isReadable(spte);
        expect(byHardware).toBe(allowed);
      }
      const table = makeNonleafSpte(layout, pfn);
      expect([format.isReadable(table), format.isWritable(table), format.isExecutable(table)]).toEqual([
        true,
        true,
        true,
      ]);
      expect(spteToPfn(table)).toBe(pfn);
    });

    test("aging takes the accessed bit, or the rights, and an access gives them back", () => {
      const young = made();
      expect(isAccessedSpte(layout, young)).toBe(true);
      const old = markSpteForAccessTrack(layout, young);
      expect(isAccessedSpte(layout, old)).toBe(false);
      expect(spteAdEnabled(layout, old)).toBe(layout.adEnabled);
      expect(isAccessTrackSpte(layout, old)).toBe(!layout.adEnabled);
      expect(markSpteForAccessTrack(layout, old)).toEqual(old);
      expect(spteToPfn(old)).toBe(pfn);
      if (layout.adEnabled) return;
      expect(layout.format.isPresent(old)).toBe(false);
      expect(isShadowPresentPte(old)).toBe(true);
      const back = restoreAccTrackSpte(layout, old);
      expect(layout.format.isReadable(back) && isExecutablePte(layout, back)).toBe(true);
      // W comes back only by MMU-W, in a fast page fault.
      expect(layout.format.isWritable(back)).toBe(false);
      const withoutX = restoreAccTrackSpte(layout, markSpteForAccessTrack(layout, made({ exec: false })));
      expect(isExecutablePte(layout, withoutX)).toBe(false);
    });

    test("dirty", () => {
      expect(isDirtySpte(layout, made())).toBe(true);
      expect(isDirtySpte(layout, made({ mayWrite: false }))).toBe(false);
    });

    test("a huge entry is split into entries for its parts, and made again from one of them", () => {
      const whole = made(huge);
      const request = { huge: whole, level: PG_LEVEL_4K, index: 5, pages: 1, nxHugePages: false };
      const part = makeSmallSpte(layout, request);
      expect(part).toEqual(made({ pfn: 0x12205 as Pfn }));
      expect(makeHugeSpte(layout, part, 512, false)).toEqual(whole);
      const noExec = made({ ...huge, nxHugePages: true });
      expect(isExecutablePte(layout, noExec)).toBe(false);
      const executable = makeSmallSpte(layout, { ...request, huge: noExec, nxHugePages: true });
      expect(executable).toEqual(part);
      expect(makeHugeSpte(layout, executable, 512, true)).toEqual(noExec);
      const tracked = makeSmallSpte(layout, {
        ...request,
        huge: markSpteForAccessTrack(layout, noExec),
        nxHugePages: true,
      });
      expect(isAccessedSpte(layout, tracked)).toBe(false);
      expect(layout.adEnabled || isExecutablePte(layout, restoreAccTrackSpte(layout, tracked))).toBe(true);
    });

    test("what may change under mmu_lock", () => {
      const volatile = (spte: U64): boolean => spteHasVolatileBits(layout, spte);
      const isNewer = layout.kernel === "7.2";
      const protectedSpte = u64(made().hi, made().lo & ~2);
      expect(volatile(protectedSpte)).toBe(true);
      expect(volatile(made())).toBe(!layout.adEnabled && isNewer);
      expect(volatile(made({ hostWritable: false }))).toBe(!layout.adEnabled && isNewer);
      // An A bit that gets lost is no harm in 7.2.
      expect(volatile(made({ hostWritable: false, prefetch: true }))).toBe(!(layout.adEnabled && isNewer));
      const clean = u64(made().hi, made().lo & ~layout.dirty.lo);
      expect(volatile(clean)).toBe(layout.adEnabled || isNewer);
    });

    test("writable invariants", () => {
      expect(() => checkSpteWritableInvariants(layout, made())).not.toThrow();
      const clear = (spte: U64, mask: U64): U64 => u64(spte.hi & ~mask.hi, spte.lo & ~mask.lo);
      expect(() => checkSpteWritableInvariants(layout, clear(made(), layout.hostWritable))).toThrow(
        /host has the page/,
      );
      expect(() => checkSpteWritableInvariants(layout, clear(made(), layout.mmuWritable))).toThrow(/not MMU-writable/);
    });
  },
);
