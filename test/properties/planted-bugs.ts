/** Bugs put into racewalk's own source, one at a time, and a seed whose random workload brings each to light. */

export interface PlantedBug {
  readonly name: string;
  /** In src/. */
  readonly file: string;
  /** Stands exactly once in the file. */
  readonly find: string;
  readonly replace: string;
  readonly seed: number;
  /** Part of what is said. */
  readonly says: string;
}

export const PLANTED_BUGS: readonly PlantedBug[] = [
  {
    name: "an invalidation leaves the last frame of its range alone",
    file: "kvm/memslots.ts",
    find: "end: (base + Math.ceil((to - first) / PAGE_SIZE)) as Gfn,",
    replace: "end: (base + Math.ceil((to - first) / PAGE_SIZE) - (to - from > PAGE_SIZE ? 1 : 0)) as Gfn,",
    seed: 2,
    says: "the VMM has nothing there that may be read",
  },
  {
    name: "a notifier's zap is not flushed",
    file: "kvm/mmu-notifier.ts",
    find: "if (flush) yield*",
    replace: "if (flush && kvm.variants.faultsMax < 0) yield*",
    seed: 0,
    says: "cached, which is not mapped",
  },
  {
    name: "clearing the log leaves the last page of 64 writable",
    file: "kvm/tdp-dirty.ts",
    find: "iter.valid && iter.gfn <= last;",
    replace: "iter.valid && (iter.gfn < last || last === start);",
    seed: 15,
    says: "it can be written without anybody's notice, and is not in the log",
  },
  {
    name: "a fast page fault does not mark the page",
    file: "kvm/fast-page-fault.ts",
    find: "if (isWritablePte(newSpte) && !isWritablePte(oldSpte) && fault.slot !== null) {",
    replace: "if (fault.addr < 0 && isWritablePte(newSpte) && fault.slot !== null) {",
    seed: 9,
    says: "it can be written without anybody's notice, and is not in the log",
  },
  {
    name: "a split takes the frames of the huge page from its middle on",
    file: "kvm/spte.ts",
    find: "small.index * small.pages",
    replace: "((small.index + 256) % 512) * small.pages",
    seed: 9,
    says: "it maps another frame than the VMM's page tables",
  },
  {
    name: "a fault keeps its reference to the page",
    file: "kvm/mmu.ts",
    find: "  yield* finishPageFault(kvm, fault, found, result);\n  return result;",
    replace: '  if (result !== "fixed") yield* finishPageFault(kvm, fault, found, result);\n  return result;',
    seed: 1,
    says: "has 2 references and 1 mappings",
  },
  {
    name: "a memslot that lies otherwise in the guest than on the host gets huge pages",
    file: "kvm/lpage-info.ts",
    find: "if (baseGfn % pages !== hostFrame % pages) counts.fill(1, 0, count);",
    replace: "if (hostFrame < 0) counts.fill(1, 0, count);",
    seed: 10,
    says: "it maps another frame than the VMM's page tables",
  },
  {
    name: "the inactive set of memslots keeps the old slots",
    file: "kvm/memory-region.ts",
    find: "  memslots.fill(active, addrs);\n  active.generation",
    replace: "  active.generation",
    seed: 0,
    says: "the memslots are",
  },
  {
    name: "KVM maps a page writable that the host has read-only",
    file: "kvm/mmu.ts",
    find: "fault.mapWritable = page.writable && !memslotIsReadonly(slot);",
    replace: "fault.mapWritable = !memslotIsReadonly(slot);",
    seed: 2,
    says: "it maps a page with",
  },
  {
    name: "lockless aging forgets that an entry was young",
    file: "kvm/aging.ts",
    find: "    young = true;\n    yield* kvmTdpMmuAgeSpte(tdp, iter);",
    replace: "    young = iter.level > PG_LEVEL_4K;\n    yield* kvmTdpMmuAgeSpte(tdp, iter);",
    seed: 10,
    says: "a page that was used is said to be old",
  },
  {
    name: "a table that leaves the list of NX huge pages is still counted",
    file: "kvm/nx-huge.ts",
    find: '  tdp.count("nx_lpage_splits", -1);\n',
    replace: "",
    seed: 20,
    says: "nx_lpage_splits is 1, and there are 0",
  },
  {
    name: "recovery of huge pages does not look whether the host has one",
    file: "kvm/tdp-recover.ts",
    find: "return (yield* kvmMmuMaxMappingLevel(tdp.kvm, slot, iter.gfn)) >= iter.level;",
    replace: "return (yield* kvmMmuMaxMappingLevel(tdp.kvm, slot, iter.gfn)) >= 1;",
    seed: 3,
    says: "it may be written, and the VMM may not write it",
  },
  {
    name: "pre-faulting loads a root without flushing",
    file: "kvm/pre-fault.ts",
    find: "  vcpu.guest.tlb.flushAll();\n",
    replace: "",
    seed: 15,
    says: "cached, which is not mapped",
  },
  {
    name: "a deleted memslot stays mapped",
    file: "kvm/memory-region.ts",
    find: "  if (kvm.arch !== null) yield* kvm.arch.flushShadowMemslot(old);\n",
    replace: "",
    seed: 1,
    says: "it is mapped, and no memslot has it",
  },
  {
    name: "the CPU's log of writes is thrown away when the guest leaves by an OUT",
    file: "kvm/vcpu.ts",
    find: "  if (guest.pml.entries.length > 0) yield*",
    replace: '  if (exit?.kind === "io") guest.pml.take();\n  if (guest.pml.entries.length > 0) yield*',
    seed: 19,
    says: "it can be written without anybody's notice, and is not in the log",
  },
  {
    name: "a reset ring leaves its last pages writable",
    file: "kvm/dirty-ring.ts",
    find: "  if (batch !== null) yield* kvmResetDirtyGfn(vm, batch);\n  const dirty",
    replace: "  const dirty",
    seed: 10,
    says: "its ring was reset, and it can be written",
  },
];
