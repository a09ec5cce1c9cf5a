/**
 * Making the entry for a page: make_spte() with what the shadow MMU knows of the frame.
 *
 * A frame that has a shadow page of its own is not mapped writable: an upper table never, a last-level table only once its pages are unsync. Stands
 * for make_spte(), mark_mmio_spte() of 6.12 and 7.2.
 */
import { load, type Steps, storeEntry, type U64 } from "../../engine/index.ts";
import type { Gfn, Pfn } from "../../machine/index.ts";
import { markPageDirtyInSlot } from "../dirty-log.ts";
import { type KvmMemorySlot, kvmMemslots } from "../memslots.ts";
import { makeMmioSpte, mmioGenerationOf } from "../mmio-spte.ts";
import { isLastSpte, isShadowPresentPte, isWritablePte, makeSpte } from "../spte.ts";
import type { Vcpu } from "../vcpu.ts";
import { isTooLarge } from "./large-designs.ts";
import type { ShadowPage } from "./page.ts";
import type { ShadowMmu } from "./shadow-mmu.ts";
import type { Sptep } from "./spte-change.ts";
import { mmuTryToUnsyncPages } from "./unsync.ts";

export interface ShadowSpteRequest {
  /** Of the entry's page. */
  readonly level: number;
  readonly slot: KvmMemorySlot;
  readonly gfn: Gfn;
  readonly pfn: Pfn;
  /** ACC_* */
  readonly access: number;
  /** What stands in the entry now. */
  readonly old: U64;
  readonly prefetch: boolean;
  readonly synchronizing: boolean;
  readonly hostWritable: boolean;
  /** See {@link UnsyncRequest}. */
  readonly unmarked: ShadowPage[] | null;
}

export interface MadeSpte {
  readonly spte: U64;
  /** The guest may write there, but KVM must see it when it does. */
  readonly wrprot: boolean;
}

/** make_spte() */
export function* makeShadowSpte(vcpu: Vcpu, shadow: ShadowMmu, request: ShadowSpteRequest): Steps<MadeSpte> {
  const { level, slot, gfn, access, old, prefetch, synchronizing, hostWritable, unmarked } = request;
  const { bits } = shadow;
  const write = (access & bits.write) !== 0 && hostWritable;
  // An entry that was writable stays so without another look: whoever makes a shadow page of the frame takes W away first.
  const wasWritable = isShadowPresentPte(old) && isLastSpte(old, level) && isWritablePte(old);
  let mayWrite = true;
  if (write && !wasWritable)
    mayWrite = yield* mmuTryToUnsyncPages(shadow, { slot, gfn, synchronizing, prefetch, unmarked });
  if (isTooLarge(shadow, slot, gfn, level)) mayWrite = false;
  const spte = makeSpte(shadow.layout, {
    level,
    pfn: request.pfn,
    hostWritable,
    write,
    exec: (access & bits.exec) !== 0,
    user: (access & bits.user) !== 0,
    prefetch,
    synchronizing,
    mayWrite,
    old,
    nxHugePages: shadow.nxHugePagesOn(),
  });
  if (isWritablePte(spte)) yield* markPageDirtyInSlot(shadow.kvm, slot, gfn, vcpu.dirtyRing);
  return { spte, wrprot: write && !mayWrite };
}

/** mark_mmio_spte(): the entry says from now on that there is no memory. */
export function* markShadowMmioSpte(shadow: ShadowMmu, sptep: Sptep, gfn: Gfn, access: number): Steps<void> {
  const { kernel, kvm } = shadow;
  const generation = yield* load((yield* kvmMemslots(kvm.memslots)).generation);
  const spte = makeMmioSpte(shadow.layout, gfn, access, generation);
  shadow.emit({
    name: "mark_mmio_spte",
    sptep: sptep,
    gfn,
    access: spte.lo & 7,
    gen: mmioGenerationOf(kernel, generation),
  });
  yield* storeEntry(shadow.world, sptep, spte);
}
