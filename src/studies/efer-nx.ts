/**
 * efer-nx: do vCPUs with and without EFER.NXE keep their shadow pages apart?
 *
 * With NXE, bit 63 of an entry forbids execution; without it the bit is reserved, and whoever uses the entry has a page fault. Since 9645bb56b31a
 * (2.6.29) NXE was part of a shadow page's role. Linux 6.12 and 7.2 set efer_nx in the role of every root of the shadow MMU
 * (kvm_init_shadow_mmu()), because their own entries use bit 63 whatever the guest does: so pages are shared again, and who uses an entry that is there
 * is not told.
 *
 * Tasks: vcpu0 has NXE, vcpu1 has not; both read a page whose entry has bit 63. irq0 and irq1 are interrupt handlers.
 */
import { u64 } from "../engine/index.ts";
import { putUser } from "../kernel/index.ts";
import { hva, PAGE_SIZE } from "../machine/index.ts";
import {
  DATA_PAGE,
  NEW,
  readPage,
  type ShadowSceneOptions,
  shadowHostPage,
  shadowScenes,
  TABLE,
} from "./shadow-guest-scene.ts";
import { cell, study } from "./study.ts";

const PAGE = DATA_PAGE + 1;
/** EFER.LME and LMA. */
const WITHOUT_NXE = 0x500;
/** Bit 63; P, W, A and D. */
const ENTRY = u64(0x8000_0000, NEW * PAGE_SIZE + 0x63);

const shared: ShadowSceneOptions = {
  guests: [
    { warm: [], runs: [[readPage(PAGE)]] },
    { warm: [], registers: { efer: WITHOUT_NXE }, runs: [[readPage(PAGE)]] },
  ],
  *prepare({ mm }) {
    yield* putUser(mm, hva(shadowHostPage(TABLE) + 8 * PAGE), ENTRY, 8);
  },
  check: ({ vm }) => (vm.vcpus[1]?.guest.next === 0 ? null : "a reserved bit is set, and there is no fault"),
};
const alone: ShadowSceneOptions = { ...shared, guests: [{ warm: [] }, ...shared.guests.slice(1)] };

const scenes = shadowScenes({ shared, alone });

export default study({
  id: "efer-nx",
  title: "Do vCPUs with and without EFER.NXE keep their shadow pages apart?",
  source: "arch/x86/kvm/mmu/mmu.c of Linux 6.12 and 7.2: kvm_init_shadow_mmu(); 9645bb56b31a",
  variants: { "7.2": "Linux 7.2: efer_nx is set in the role of every shadow page" },
  cells: [
    cell({
      variant: "7.2",
      scenario: "alone",
      property: "final",
      expected: "holds",
      because:
        "without an entry in the shadow page there is a walk of the guest's tables, which finds the reserved bit",
      program: () => scenes("alone"),
    }),
    cell({
      variant: "7.2",
      scenario: "shared",
      property: "final",
      expected: "fails",
      because: "vcpu0 has had the entry made in a page that both use",
      program: () => scenes("shared"),
    }),
  ],
});
