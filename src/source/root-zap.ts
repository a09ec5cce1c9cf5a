/**
 * root-zap on a compiled kernel: kvm_mmu_zap_all_fast() of that kernel, whose zap of invalidated roots is two passes up to 6.8 and level by level from
 * 6.9 on, against a vCPU that faults and against the host that takes a page away.
 */
import type { Steps } from "../engine/index.ts";
import { munmap } from "../kernel/index.ts";
import { touch } from "../machine/index.ts";
import type { Image } from "./image.ts";
import { isSince, type KernelStudy, kvmScenario } from "./kernel-study.ts";
import { hostPage, type KvmScene, type KvmSceneOptions } from "./kvm-scene.ts";
import { tdpTablesProblem } from "./tdp-oracle.ts";

/** Frames of the memslot, and address bits of the guest's memory: beyond it nothing is walked. */
const FRAMES = 2;
const GPA_BITS = 13;
const GIB_FRAMES = 2 ** 18;
const GPA_BITS_OF_2G = 31;

const write0 = touch(0, "write");
const write1 = touch(1, "write");

function* zap({ kernel, kvm }: KvmScene): Steps<void> {
  yield* kernel.call("rw_zap_all_fast", BigInt(kvm));
}

const SCENE: Omit<KvmSceneOptions, "guests"> = {
  ...{ frames: FRAMES, warm: [[write0, write1]], gpaBits: GPA_BITS, faultsMax: 1 },
  check: ({ kernel, kvm, vcpus }) => tdpTablesProblem(kernel, kvm, vcpus),
};

/** A walk may yield only where it has got on: page by page from 6.9 on, before from one 1G to the next. */
function unmapScene(image: Image): KvmSceneOptions {
  const second = isSince(image, 6, 9) ? 1 : GIB_FRAMES;
  return {
    ...SCENE,
    guests: [[]],
    slots: [
      { gfn: 0, page: 0, pages: 1 },
      { gfn: second, page: 1, pages: 1 },
    ],
    warm: [[write0, touch(second, "write")]],
    gpaBits: second === 1 ? GPA_BITS : GPA_BITS_OF_2G,
    // No vCPU uses the root any more: only the TDP MMU has a reference.
    prepare: ({ kernel, vcpus }) => kernel.call("rw_free_roots", BigInt(vcpus[0] as number)),
    threads: { zap, munmap: ({ mm }) => munmap(mm, hostPage(1), hostPage(2)) },
    yields: true,
  };
}

export const ROOT_ZAP: KernelStudy = {
  title: "How may a whole root of the TDP MMU be zapped? On the kernel's own source",
  source: "LKML, December 2021 and January 2022: KVM: x86/mmu: Zap TDP MMU roots in two passes",
  variant: "linux",
  scenarios: [
    kvmScenario(
      "fault",
      "final",
      "no fault maps anything in an invalid root, so what one walk has zapped stays zapped",
      { ...SCENE, guests: [[write0]], warm: [[write1]], threads: { zap } },
    ),
    kvmScenario("unmap", "isolation", "the notifier finds the root as long as it has a mapping", unmapScene, {
      models: ["sc"],
    }),
  ],
};
