/**
 * The guest changes a control register, and KVM carries it out: what that means for the MMU.
 *
 *     CR3      a kept root for the new address space, or a new one; what is out of step is brought in step before the guest runs
 *     CR0      WP, PG: other roles, so other roots
 *     CR4      PAE, PSE, SMEP, SMAP, LA57: likewise; PGE flushes every address space's translations
 *     INVLPG   one address in all kept roots
 *
 * Stands for kvm_set_cr0(), kvm_set_cr3(), kvm_set_cr4(), kvm_mmu_invlpg(), kvm_invalidate_pcid() of 6.12 and 7.2. Values that the CPU would refuse
 * are not looked for, but for PDPTEs.
 */
import { type Steps, sameU64, store } from "../engine/index.ts";
import {
  type Gva,
  type PagingMode,
  withControlRegister,
  X86_CR0_PG,
  X86_CR0_WP,
  X86_CR4_LA57,
  X86_CR4_PAE,
  X86_CR4_PCIDE,
  X86_CR4_PGE,
  X86_CR4_PKE,
  X86_CR4_PSE,
  X86_CR4_SMAP,
  X86_CR4_SMEP,
} from "../machine/index.ts";
import { loadPdptrs } from "./guest-walk.ts";
import { KVM_REQ_MMU_SYNC, KVM_REQ_TLB_FLUSH_CURRENT, KVM_REQ_TLB_FLUSH_GUEST, kvmMakeRequest } from "./requests.ts";
import { kvmMmuInvalidateAddr } from "./shadow/invalidate.ts";
import { kvmMmuNewPgd, kvmShadowMmuFreeRoots } from "./shadow/roots.ts";
import type { Vcpu } from "./vcpu.ts";

const CR0_ROLE_BITS = X86_CR0_PG + X86_CR0_WP;
const CR4_ROLE_BITS = X86_CR4_PSE | X86_CR4_PAE | X86_CR4_LA57 | X86_CR4_SMEP | X86_CR4_SMAP | X86_CR4_PKE;
const CR4_PDPTR_BITS = X86_CR4_PGE | X86_CR4_PSE | X86_CR4_PAE | X86_CR4_SMEP;

/** The register is written by the emulator. */
export function* kvmSetControlRegister(vcpu: Vcpu, register: 0 | 3 | 4, value: number): Steps<void> {
  if (register === 3) yield* kvmSetCr3(vcpu, value);
  else if (register === 0) yield* kvmSetCr0(vcpu, value);
  else yield* kvmSetCr4(vcpu, value);
}

function isPaePaging(mode: PagingMode): boolean {
  return mode.paging && mode.levels === 3;
}

function* kvmSetCr0(vcpu: Vcpu, value: number): Steps<void> {
  const { guest } = vcpu;
  const old = guest.mode;
  guest.mode = withControlRegister(old, 0, value);
  if (isPaePaging(guest.mode) && !old.paging) yield* reloadPdptrs(vcpu, guest.mode.cr3);
  const changed = (old.cr0 ^ value) & CR0_ROLE_BITS;
  // With nested paging the tables do not depend on WP.
  if (changed === 0 || (vcpu.vm.kvm.params.npt && changed === X86_CR0_WP)) return;
  yield* kvmMmuResetContext(vcpu);
}

function* kvmSetCr4(vcpu: Vcpu, value: number): Steps<void> {
  const { guest } = vcpu;
  const changed = guest.mode.cr4 ^ value;
  guest.mode = withControlRegister(guest.mode, 4, value);
  if (isPaePaging(guest.mode) && (changed & CR4_PDPTR_BITS) !== 0) yield* reloadPdptrs(vcpu, guest.mode.cr3);
  if ((changed & CR4_ROLE_BITS) !== 0) yield* kvmMmuResetContext(vcpu);
  const losesPcide = (changed & X86_CR4_PCIDE) !== 0 && (value & X86_CR4_PCIDE) === 0;
  if ((changed & X86_CR4_PGE) !== 0 || losesPcide) yield* kvmMakeRequest(vcpu, KVM_REQ_TLB_FLUSH_GUEST);
  else if ((changed & (X86_CR4_PAE | X86_CR4_SMEP)) !== 0) yield* kvmMakeRequest(vcpu, KVM_REQ_TLB_FLUSH_CURRENT);
}

/** kvm_mmu_reset_context(): the vCPU's roots were for another mode of paging. */
function* kvmMmuResetContext(vcpu: Vcpu): Steps<void> {
  yield* vcpu.vm.ops.unload(vcpu);
}

/** load_pdptrs(): the vCPU's root shadows what the old PDPTEs led to. */
function* reloadPdptrs(vcpu: Vcpu, cr3: number): Steps<void> {
  const { mmu } = vcpu;
  const { shadow } = vcpu.vm;
  const before = mmu.pdptes;
  yield* loadPdptrs(vcpu, cr3);
  const same = before.every((pdpte, i) => sameU64(pdpte, mmu.pdptes[i] as typeof pdpte));
  if (!same && shadow !== null && !vcpu.vm.kvm.params.npt) yield* kvmShadowMmuFreeRoots(vcpu, shadow, [mmu.root]);
}

function* kvmSetCr3(vcpu: Vcpu, value: number): Steps<void> {
  const { guest, mmu } = vcpu;
  const { shadow } = vcpu.vm;
  const old = guest.mode;
  if (isPaePaging(old)) yield* reloadPdptrs(vcpu, value);
  if (value !== old.cr3 && shadow !== null && !vcpu.isDirectMmu) {
    if (yield* kvmMmuNewPgd(vcpu, shadow, value)) {
      vcpu.clearMmioInfo(null);
      const root = shadow.pages.ofRoot(mmu.root.hpa.value);
      if (root !== null) yield* store(root.write_flooding_count, 0);
    }
  }
  guest.mode = withControlRegister(old, 3, value);
  // kvm_invalidate_pcid(): without PCIDs, a MOV to CR3 flushes what is not global; kept roots are brought in step when they are used again.
  yield* kvmMakeRequest(vcpu, KVM_REQ_MMU_SYNC);
  yield* kvmMakeRequest(vcpu, KVM_REQ_TLB_FLUSH_CURRENT);
}

/** kvm_mmu_invlpg() */
export function* kvmMmuInvlpg(vcpu: Vcpu, addr: Gva): Steps<void> {
  const { shadow } = vcpu.vm;
  if (shadow === null) vcpu.guest.tlb.flushPage(addr);
  else yield* kvmMmuInvalidateAddr(vcpu, shadow, addr, [vcpu.mmu.root, ...vcpu.mmu.prevRoots]);
  vcpu.count("invlpg");
}
