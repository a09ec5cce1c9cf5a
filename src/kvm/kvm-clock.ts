/**
 * kvm-clock: the page through which a vCPU's guest reads the time, written by KVM through a gfn_to_pfn_cache.
 *
 *     the guest writes MSR_KVM_SYSTEM_TIME_NEW       the cache is activated (or deactivated)
 *     KVM_SET_CLOCK                                  every vCPU is asked to write its page before it enters the guest again
 *
 * What is written is the page's version, odd while the rest changes; times are no business of the MMU. Stands for kvm_write_system_time(),
 * kvm_guest_time_update(), kvm_setup_guest_pvclock(), kvm_vm_ioctl_set_clock() of 6.12 and 7.2.
 */
import { Cell, fetchOr, load, type Steps, store } from "../engine/index.ts";
import { readLock, readUnlock } from "../kernel/index.ts";
import { type Gpa, gpaToGfn } from "../machine/index.ts";
import { kvmVcpuMarkPageDirty } from "./dirty-log.ts";
import { kvmGpcActivate, kvmGpcCheck, kvmGpcDeactivate, kvmGpcRefresh } from "./gfn-to-pfn-cache.ts";
import { KVM_REQ_CLOCK_UPDATE } from "./requests.ts";
import type { Vcpu } from "./vcpu.ts";
import type { Vm } from "./vm.ts";

export const MSR_KVM_SYSTEM_TIME_NEW = 0x4b564d01;

/** kvm_write_system_time(): bit 0 switches the clock on, the rest is where its page is. */
export function* kvmWriteSystemTime(vcpu: Vcpu, value: number): Steps<void> {
  yield* fetchOr(vcpu.requests, KVM_REQ_CLOCK_UPDATE);
  if (value % 2 === 1) yield* kvmGpcActivate(vcpu.pvTime, { gpa: (value - 1) as Gpa });
  else yield* kvmGpcDeactivate(vcpu.pvTime);
}

/** KVM_SET_CLOCK */
export function* kvmVmIoctlSetClock(vm: Vm): Steps<void> {
  for (const vcpu of vm.vcpus) yield* fetchOr(vcpu.requests, KVM_REQ_CLOCK_UPDATE);
}

/** kvm_guest_time_update(), kvm_setup_guest_pvclock() */
export function* kvmGuestTimeUpdate(vcpu: Vcpu): Steps<void> {
  const { pvTime } = vcpu;
  if (pvTime.fields.active.value === 0) return;
  yield* readLock(pvTime.lock);
  while (!(yield* kvmGpcCheck(pvTime))) {
    yield* readUnlock(pvTime.lock);
    if (!(yield* kvmGpcRefresh(pvTime))) return;
    yield* readLock(pvTime.lock);
  }
  const { khva, gpa } = pvTime.fields;
  const version = new Cell<number>(vcpu.world, khva.value + (gpa.value % 4096), 4, false);
  const odd = (yield* load(version)) | 1;
  yield* store(version, odd);
  yield* store(version, odd + 1);
  yield* kvmVcpuMarkPageDirty(vcpu, gpaToGfn(gpa.value as Gpa));
  yield* readUnlock(pvTime.lock);
}
