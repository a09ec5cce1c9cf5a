/**
 * What must hold of the TDP MMU's roots when nobody is working on them: each has as many references as users, its vCPUs and, as long as it has not
 * been zapped, the TDP MMU itself.
 *
 * One too many, and the root's tables are never freed; one too few, and they are freed under a vCPU that walks them.
 */
import { roleIsInvalid } from "../kvm/role.ts";
import type { Vm } from "../kvm/vm.ts";

/** Looks at the roots as they are now; null when all is well, else what is wrong. For final predicates. */
export function tdpRootsProblem({ tdp, vcpus, world }: Vm): string | null {
  for (let addr = tdp.roots.peek(); addr !== 0; ) {
    const root = tdp.pages.at(addr);
    const users = vcpus.filter((vcpu) => vcpu.rootHpa.peek() === root.spt.peek()).length;
    const isKept = !roleIsInvalid(tdp.roles, root.role.peek()) || root.tdp_mmu_scheduled_root_to_zap.peek() !== 0;
    const wanted = users + (isKept ? 1 : 0);
    const count = root.tdp_mmu_root_count.peek();
    if (count !== wanted || count === 0) return `${world.nameOf(addr)} has ${count} references, and ${wanted} users`;
    addr = root.link.peek();
  }
  return null;
}
