/**
 * Faults on a compiled kernel's TDP MMU: mmu.c, tdp_mmu.c and the notifier of kvm_main.c, with guests on our CPUs.
 *
 * Tasks `vcpu0`, `vcpu1` run guests that touch pages, `munmap` takes page 0 away.
 */
import type { Program } from "../engine/index.ts";
import { munmap } from "../kernel/index.ts";
import { type GuestInstruction, touch } from "../machine/index.ts";
import type { Image } from "./image.ts";
import { hostPage, kvmScene } from "./kvm-scene.ts";
import { tdpTablesProblem } from "./tdp-oracle.ts";

/** Frames of the memslot; the last one is touched during set-up only. */
const FRAMES = 4;

export interface TdpSceneOptions {
  /** What each vCPU's guest does. */
  readonly guests: readonly (readonly GuestInstruction[])[];
  /** The vCPUs have a root, and the tables above the leaves are there. */
  readonly warm: boolean;
  /** munmap() of page 0. */
  readonly unmap: boolean;
  /** Faults on one instruction before a vCPU gives up. */
  readonly faultsMax: number;
}

export function tdpProgramOn(image: Image, racing: Iterable<number>, name: string, options: TdpSceneOptions): Program {
  const { guests, warm, unmap, faultsMax } = options;
  return kvmScene(image, racing, name, {
    ...{ frames: FRAMES, guests, faultsMax },
    warm: guests.map(() => (warm ? [touch(FRAMES - 1, "write")] : [])),
    threads: unmap ? { munmap: ({ mm }) => munmap(mm, hostPage(0), hostPage(1)) } : {},
    check: ({ kernel, kvm, vcpus }) => tdpTablesProblem(kernel, kvm, vcpus),
  });
}
