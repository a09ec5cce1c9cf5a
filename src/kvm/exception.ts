/**
 * A page fault of the guest's own, handed to it by KVM.
 *
 *     queued      the walk of the guest's tables has failed, for a fault or for the emulator
 *     injected    at the next entry, unless it was cut short: then again ("reinjected"), as when the delivery itself faults
 *
 * Stands for kvm_inject_emulated_page_fault(), kvm_inject_page_fault(), kvm_inject_exception(), svm_complete_interrupts() of 6.12 and 7.2, for page
 * faults only.
 */
import type { Steps } from "../engine/index.ts";
import { type GuestEvent, PF_VECTOR, PFERR_PRESENT, PFERR_RSVD } from "../machine/index.ts";
import type { WalkFault } from "./guest-walk.ts";
import { kvmMmuInvalidateAddr } from "./shadow/invalidate.ts";
import type { Vcpu } from "./vcpu.ts";

/** struct kvm_queued_exception */
export interface QueuedException {
  readonly event: GuestEvent;
  /** It was handed to the CPU before. */
  readonly injected: boolean;
}

/** kvm_inject_emulated_page_fault(): the entry that denied the access may be older than the guest's: its translation goes. */
export function* kvmInjectEmulatedPageFault(vcpu: Vcpu, { address, errorCode }: WalkFault): Steps<void> {
  const { shadow } = vcpu.vm;
  const wasPresent = (errorCode & PFERR_PRESENT) !== 0 && (errorCode & PFERR_RSVD) === 0;
  if (wasPresent && shadow !== null) yield* kvmMmuInvalidateAddr(vcpu, shadow, address, [vcpu.mmu.root]);
  vcpu.count("pf_guest");
  vcpu.exception = { event: { vector: PF_VECTOR, errorCode, address }, injected: false };
}

/** kvm_inject_exception(), before the guest is entered. */
export function injectException(vcpu: Vcpu): void {
  const { exception, guest } = vcpu;
  guest.eventInjection = exception?.event ?? null;
  if (exception === null) return;
  const { event, injected } = exception;
  vcpu.vm.emit({ name: "kvm_inj_exception", errorCode: event.errorCode, reinjected: injected });
  vcpu.exception = { event, injected: true };
}

/** svm_complete_interrupts(): what was being delivered when the guest was left has to be delivered again. */
export function completeInterrupts(vcpu: Vcpu): void {
  const { exitEvent } = vcpu.guest;
  vcpu.exception = exitEvent === null ? null : { event: exitEvent, injected: true };
}

/** kvm_event_needs_reinjection() */
export function eventNeedsReinjection(vcpu: Vcpu): boolean {
  return vcpu.exception?.injected ?? false;
}
