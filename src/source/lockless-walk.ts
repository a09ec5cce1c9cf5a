/**
 * lockless-walk on a compiled kernel: the shadow MMU of a VM with nested paging (tdp_mmu=0), whose pages are freed at once, after a flush.
 *
 * Who walks its tables without mmu_lock must be a vCPU: it walks with interrupts off and in mode READING_SHADOW_PAGE_TABLES, and the flush
 * before the pages are freed interrupts every CPU in that mode, and waits. An ioctl takes mmu_lock.
 */
import type { Steps } from "../engine/index.ts";
import { munmap } from "../kernel/index.ts";
import { touch } from "../machine/index.ts";
import { type KernelStudy, kvmScenario } from "./kernel-study.ts";
import { hostPage, type KvmScene, type KvmSceneOptions } from "./kvm-scene.ts";

const write0 = touch(0, "write");

/** A memslot goes: every shadow page is zapped. */
function* zap({ kernel, kvm }: KvmScene): Steps<void> {
  yield* kernel.call("rw_zap_all_fast", BigInt(kvm));
}

/** Dirty logging begins. */
function* writeProtect({ kernel, kvm }: KvmScene): Steps<void> {
  yield* kernel.call("rw_write_protect_slot", BigInt(kvm), 0);
}

/** One page, mapped by direct shadow pages. */
const SCENE: Omit<KvmSceneOptions, "guests"> = { frames: 1, tdpMmu: false, warm: [[write0]], faultsMax: 1 };

/** The guest writes to the page, which logging has protected: the fault is mended without mmu_lock, if it can be. */
const FAST_FAULT: KvmSceneOptions = { ...SCENE, guests: [[write0]], prepare: writeProtect };

export const LOCKLESS_WALK: KernelStudy = {
  title: "Who may walk shadow pages while they are zapped? On the kernel's own source",
  source:
    "LKML, 2013-10-07: Re: [PATCH v2 12/15] KVM: MMU: allow locklessly access shadow pagetable out of vcpu thread",
  variant: "V0",
  scenarios: [
    kvmScenario("lifetime", "use-after-free", "the zap waits for the walk", {
      ...SCENE,
      guests: [[]],
      threads: { ioctl: writeProtect, zap },
    }),
    kvmScenario(
      "vcpu-walk",
      "use-after-free",
      "the flush before the pages are freed waits for the vCPU that walks: its mode tells of the walk, and its CPU takes the interrupt afterwards",
      { ...FAST_FAULT, threads: { zap } },
    ),
    kvmScenario("vcpu-unmap", "isolation", "the compare-exchange of the fast fault fails on an entry that was zapped", {
      ...FAST_FAULT,
      threads: { munmap: ({ mm }) => munmap(mm, hostPage(0), hostPage(1)) },
    }),
  ],
};
