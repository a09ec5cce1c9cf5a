/**
 * prefault-delete: may KVM_PRE_FAULT_MEMORY run while the memslot that it is about is deleted?
 *
 * The ioctl tries again as long as a fault says so, inside one SRCU section; the deletion waits for such sections, twice. Linux had the ioctl give up
 * when it finds the slot invalid (3ccbf6f47098), and look for an obsolete root before it begins (20a6cff3b283). What is left is a root that becomes
 * obsolete after that look: the deletion invalidates all roots between its two waits, and the slot is gone when the ioctl comes to look for it.
 *
 * Tasks: prefault is a vCPU's thread in the ioctl, vmm deletes the slot.
 */

import { prefault } from "./bugs-progress.ts";
import { deleteSlot } from "./memslot-delete.ts";
import { cell, type StudyCell, study } from "./study.ts";
import { tdpScene } from "./tdp-scene.ts";

const FRAMES = 2;

function of(variant: string, expected: StudyCell["expected"], because: string): StudyCell {
  return cell({
    variant,
    property: "progress",
    strategy: "graph",
    expected,
    because,
    program: () =>
      tdpScene("prefault-delete", {
        frames: FRAMES,
        variants: { gfnEnd: FRAMES, slotZapAll: variant === "zap-all" },
        guests: [[]],
        warm: [1],
        threads: { vmm: deleteSlot, prefault },
      }),
  });
}

export default study({
  id: "prefault-delete",
  title: "May memory be pre-faulted while its memslot is deleted?",
  source:
    "arch/x86/kvm/mmu/mmu.c, kvm_arch_vcpu_pre_fault_memory(), of Linux 7.2, and commits 20a6cff3b283, 3ccbf6f47098",
  variants: {
    "zap-all": "the default: all roots are invalidated when a memslot is deleted",
    "zap-slot": "KVM_X86_QUIRK_SLOT_ZAP_ALL off: only the slot's own range is zapped",
  },
  cells: [
    of(
      "zap-all",
      "fails",
      "the root becomes obsolete after the look for it, and the slot is gone: the fault is stale for ever, the update waits",
    ),
    of("zap-slot", "holds", "roots stay valid: the ioctl gives up or finds no slot"),
  ],
});
