/**
 * Requests to vCPUs, and the TLB flush that is built on them.
 *
 *     requester                                     vCPU, before it enters the guest
 *     set the request bit                           mode = IN_GUEST_MODE
 *     full barrier                                  full barrier
 *     read the mode: send an IPI if in the guest    read the requests: do not enter if there are any
 *
 * One of the two sees the other. After kvm_flush_remote_tlbs() has returned, no vCPU is in the guest with a translation from before: it has
 * left on the IPI, and flushes before it enters again. One that was outside is not waited for.
 */
import { compareExchange, fetchAnd, fetchOr, load, type Operation, type Steps, store } from "../engine/index.ts";
import { current } from "../kernel/index.ts";
import { interrupt, interruptAndWait } from "../machine/index.ts";
import type { StatEvent } from "./trace.ts";
import type { Vcpu } from "./vcpu.ts";
import type { Vm } from "./vm.ts";

export const KVM_REQ_TLB_FLUSH = 1 << 0;
export const KVM_REQ_MMU_FREE_OBSOLETE_ROOTS = 1 << 1;
export const KVM_REQ_CLOCK_UPDATE = 1 << 2;
export const KVM_REQ_DIRTY_RING_SOFT_FULL = 1 << 3;
/** The vCPU brings its root in step; flushes what its own ASID has; does both for the guest, in all of its address spaces. */
export const KVM_REQ_MMU_SYNC = 1 << 4;
export const KVM_REQ_TLB_FLUSH_CURRENT = 1 << 5;
export const KVM_REQ_TLB_FLUSH_GUEST = 1 << 6;
/** The processor may no longer virtualize the APIC, or may again. */
export const KVM_REQ_APICV_UPDATE = 1 << 7;
/** The vCPU has been without a CPU: what was asked of it meanwhile. */
export const KVM_REQ_STEAL_UPDATE = 1 << 9;
/** The host has moved the APIC's page. */
export const KVM_REQ_APIC_PAGE_RELOAD = 1 << 8;

export const OUTSIDE_GUEST_MODE = 0;
export const IN_GUEST_MODE = 1;
const EXITING_GUEST_MODE = 2;
export const READING_SHADOW_PAGE_TABLES = 3;

/** kvm_check_request(): true when it was pending; clears it, and orders what follows after it. */
export function* kvmCheckRequest(vcpu: Vcpu, request: number): Steps<boolean> {
  if (((yield* load(vcpu.requests)) & request) === 0) return false;
  yield* fetchAnd(vcpu.requests, ~request >>> 0);
  return true;
}

/** kvm_make_request(), of the running vCPU itself. */
export function kvmMakeRequest(vcpu: Vcpu, request: number): Operation<number> {
  return fetchOr(vcpu.requests, request, `kvm_make_request(vcpu ${vcpu.id})`);
}

/** kvm_make_all_cpus_request(), for requests that wait: true when a CPU had to be interrupted. */
export function* kvmMakeAllCpusRequest(vm: Vm, request: number): Steps<boolean> {
  const self = current(vm.world).cpu;
  const targets: number[] = [];
  for (const vcpu of vm.vcpus) {
    const mode = yield* requestAndLook(vcpu, request);
    if (mode !== OUTSIDE_GUEST_MODE && vcpu.cpu !== self) targets.push(vcpu.cpu);
  }
  if (targets.length === 0) return false;
  if (vm.kvm.lacks("lockless-walk-vs-free/wait")) {
    for (const cpu of targets) yield* interrupt(vm.interrupts, self, cpu);
    return true;
  }
  yield* interruptAndWait(vm.interrupts, self, targets);
  return true;
}

/** The request, then the mode: of a vCPU in the guest it says from here on that it has to leave. Both are locked, and so full barriers. */
function* requestAndLook(vcpu: Vcpu, request: number): Steps<number> {
  const text = `kvm_make_request(vcpu ${vcpu.id})`;
  if (vcpu.vm.kvm.lacks("enter-guest-mode-without-full-fence/requester")) {
    yield* store(vcpu.requests, (yield* load(vcpu.requests)) | request, text);
    return yield* load(vcpu.mode);
  }
  yield* fetchOr(vcpu.requests, request, text);
  return yield* compareExchange(vcpu.mode, IN_GUEST_MODE, EXITING_GUEST_MODE);
}

/** kvm_vcpu_kick() of every vCPU: those in the guest leave it, sooner or later; nobody waits for them. */
export function* kvmKickAllVcpus(vm: Vm): Steps<void> {
  const self = current(vm.world).cpu;
  for (const vcpu of vm.vcpus) {
    const mode = yield* compareExchange(vcpu.mode, IN_GUEST_MODE, EXITING_GUEST_MODE);
    if (mode === IN_GUEST_MODE && vcpu.cpu !== self) yield* interrupt(vm.interrupts, self, vcpu.cpu);
  }
}

/** kvm_flush_remote_tlbs() */
export function* kvmFlushRemoteTlbs(vm: Vm): Steps<void> {
  count(vm, "remote_tlb_flush_requests");
  if (yield* kvmMakeAllCpusRequest(vm, KVM_REQ_TLB_FLUSH)) count(vm, "remote_tlb_flush");
}

function count(vm: Vm, stat: string): void {
  const event: StatEvent = { name: "stat", stat, vcpu: null, delta: 1 };
  vm.world.emit(event);
}
