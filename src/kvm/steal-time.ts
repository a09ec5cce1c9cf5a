/**
 * Steal time: a place in the guest's memory where KVM says that it has taken the CPU from a vCPU; and where another vCPU of the guest then asks for a TLB flush
 * instead of sending an interrupt that would have to wait.
 *
 *     the guest that flushes                              KVM, for a vCPU that is about to run again
 *     preempted?                                          preempted is exchanged with 0
 *     then by compare-exchange: preempted and flush       flush was there? then the guest's TLB is flushed
 *     else an interrupt
 *
 * Stands for record_steal_time(), kvm_steal_time_set_preempted() of 6.12 and 7.2. Not modelled: the time that was stolen, and its version.
 */
import type { Steps } from "../engine/index.ts";
import { u64 } from "../engine/index.ts";
import { exchangeUser, getUser, putUser } from "../kernel/index.ts";
import { type Gpa, gpaToGfn, type Hva, PAGE_SIZE } from "../machine/index.ts";
import { markPageDirtyInSlot } from "./dirty-log.ts";
import { gfnToHva, gfnToMemslot, isVisibleMemslot, type KvmMemorySlot } from "./memslots.ts";
import type { Vcpu } from "./vcpu.ts";

/** Where in struct kvm_steal_time `preempted` is, and its bits. */
export const STEAL_TIME_PREEMPTED = 16;
export const KVM_VCPU_PREEMPTED = 1;
export const KVM_VCPU_FLUSH_TLB = 2;

interface Place {
  readonly slot: KvmMemorySlot;
  readonly hva: Hva;
}

/** Where the process has vcpu->arch.st.preempted; null when there is none. */
function* placeOf({ vm, stealTime }: Vcpu): Steps<Place | null> {
  if (stealTime === null) return null;
  const frame = gpaToGfn(stealTime);
  const slot = yield* gfnToMemslot(vm.kvm.memslots, frame);
  if (!isVisibleMemslot(slot)) return null;
  return { slot, hva: (gfnToHva(slot, frame) + (stealTime % PAGE_SIZE) + STEAL_TIME_PREEMPTED) as Hva };
}

function marked(vcpu: Vcpu, { slot }: Place): Steps<void> {
  return markPageDirtyInSlot(vcpu.vm.kvm, slot, gpaToGfn(vcpu.stealTime as Gpa), vcpu.dirtyRing);
}

/** kvm_steal_time_set_preempted(): the scheduler takes the CPU away. */
export function* kvmStealTimeSetPreempted(vcpu: Vcpu): Steps<void> {
  const place = yield* placeOf(vcpu);
  if (place === null) return;
  yield* putUser(vcpu.vm.kvm.mm, place.hva, u64(0, KVM_VCPU_PREEMPTED), 1);
  yield* marked(vcpu, place);
}

/** record_steal_time(): true when the guest's TLB has to be flushed. */
export function* recordStealTime(vcpu: Vcpu): Steps<boolean> {
  const { kvm } = vcpu.vm;
  const place = yield* placeOf(vcpu);
  if (place === null) return false;
  const { hva } = place;
  const nothing = u64(0, 0);
  let found = null;
  if (kvm.lacks("pv-tlb-flush-flag-lost")) {
    found = yield* getUser(kvm.mm, hva, 1);
    yield* putUser(kvm.mm, hva, nothing, 1);
  } else {
    found = yield* exchangeUser(kvm.mm, hva, nothing, 1);
  }
  yield* marked(vcpu, place);
  return found !== null && (found.lo & KVM_VCPU_FLUSH_TLB) !== 0;
}
