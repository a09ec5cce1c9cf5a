/**
 * memslot-delete: when KVM_SET_USER_MEMORY_REGION has deleted a memslot, may the VMM give the memory away?
 *
 * It does: once the ioctl has returned, the memory may be unmapped, and KVM's notifier finds no memslot for it any more. So everything that leads to
 * the memory must be gone when the ioctl returns: entries, cached translations, and faults that have looked the slot or the frame up before.
 * Linux publishes a copy marked INVALID first, waits for all who may have the old slot (SRCU), zaps, and publishes the set without it. What is zapped
 * is a choice: all roots (the default), or the slot's own range (KVM_X86_QUIRK_SLOT_ZAP_ALL off).
 *
 * Tasks: vcpu0 runs a guest that touches the slot, vmm deletes the slot and unmaps the memory, irq0 is the CPU's interrupt handler; or host
 * invalidates a page of it while vmm deletes it.
 */
import { type MemoryModel, type Steps, UsageError } from "../engine/index.ts";
import { invalidateRange, munmap } from "../kernel/index.ts";
import { kvmSetMemoryRegion } from "../kvm/memory-region.ts";
import { type GuestInstruction, gfn, touch } from "../machine/index.ts";
import { cell, type StudyCell, study } from "./study.ts";
import { hostPage, type TdpScene, tdpScene } from "./tdp-scene.ts";

const FRAMES = 2;

/** Deletes the memslot, and gives its memory away. */
export function* deleteAndUnmap(scene: TdpScene): Steps<void> {
  yield* deleteSlot(scene);
  yield* munmap(scene.mm, hostPage(0), hostPage(1));
}

export function* deleteSlot({ vm }: TdpScene): Steps<void> {
  const error = yield* kvmSetMemoryRegion(vm.kvm, {
    id: 0,
    baseGfn: gfn(0),
    npages: 0,
    userspaceAddr: hostPage(0),
    flags: 0,
  });
  if (error !== 0) throw new UsageError(`the memslot cannot be deleted: error ${error}`);
}

const write0 = touch(0, "write");
const read0 = touch(0, "read");

interface Scenario {
  readonly guest: readonly GuestInstruction[];
  readonly warm: readonly number[];
  readonly because: string;
}

const SCENARIOS: Readonly<Record<string, Scenario>> = {
  mapped: {
    guest: [write0, read0],
    warm: [0],
    because: "the vCPU leaves the guest and does not get back in with what it has cached or walks through",
  },
  fault: {
    guest: [write0],
    warm: [1],
    because:
      "a fault either finds the slot before the grace period, and is zapped or stale after it; or finds it invalid",
  },
};

/** An update of the memslots between an invalidation's start and its end. */
function notifierCell(model: MemoryModel): StudyCell {
  return cell({
    variant: "zap-slot",
    scenario: "notifier",
    property: "final",
    model,
    expected: "holds",
    because:
      "an invalidation sees the same memslots at its start and at its end, so that what it counts up it counts down",
    program: () =>
      tdpScene("memslot-delete zap-slot notifier", {
        frames: FRAMES,
        variants: { slotZapAll: false, gfnEnd: FRAMES },
        guests: [[]],
        warm: [0],
        threads: { vmm: deleteSlot, host: ({ mm }) => invalidateRange(mm, hostPage(0), hostPage(1)) },
        check: ({ vm }) =>
          vm.kvm.mmuInvalidateInProgress.peek() === 0 ? null : "an invalidation seems to be in progress for ever",
      }),
  });
}

function cells(variant: string, slotZapAll: boolean): StudyCell[] {
  return Object.entries(SCENARIOS).flatMap(([scenario, { guest, warm, because }]) =>
    (["sc", "tso"] as const).map((model: MemoryModel) =>
      cell({
        variant,
        scenario,
        property: "isolation",
        model,
        expected: "holds",
        because,
        program: () =>
          tdpScene(`memslot-delete ${variant} ${scenario}`, {
            frames: FRAMES,
            variants: { slotZapAll, gfnEnd: FRAMES },
            guests: [guest],
            warm,
            threads: { vmm: deleteAndUnmap },
          }),
      }),
    ),
  );
}

export default study({
  id: "memslot-delete",
  title: "When a memslot has been deleted, may its memory be given away?",
  source:
    "virt/kvm/kvm_main.c, kvm_set_memslot(), and arch/x86/kvm/mmu/mmu.c, kvm_arch_flush_shadow_memslot(), of Linux 7.2",
  variants: {
    "zap-all": "the default: all roots are invalidated and zapped, vCPUs load new ones",
    "zap-slot": "KVM_X86_QUIRK_SLOT_ZAP_ALL off: the slot's own range is zapped and flushed",
  },
  cells: [...cells("zap-all", true), ...cells("zap-slot", false), notifierCell("sc"), notifierCell("tso")],
});
