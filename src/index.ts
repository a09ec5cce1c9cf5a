/**
 * racewalk as a library: the checker, with the machine, the kernel and KVM on it, and what a study is made of.
 *
 *     import { cell, program, study } from "racewalk";
 *
 * `cell` is a cell of a study. A shared variable of the engine, which is called `cell` in "racewalk/engine", is `variable` here.
 */
export { cell as variable, cells as variables } from "./engine/cell.ts";
export * from "./engine/index.ts";
export * from "./kernel/index.ts";
export { GfnToPfnCache, kvmGpcActivate, kvmGpcCheck, kvmGpcDeactivate, kvmGpcRefresh } from "./kvm/gfn-to-pfn-cache.ts";
export { Kvm } from "./kvm/kvm.ts";
export { mmuNotifierOps } from "./kvm/mmu-notifier.ts";
export { type GpcDesign, type KvmVariants, LINUX_6_12, LINUX_7_2, variantsOfKernel } from "./kvm/variants.ts";
export * from "./machine/index.ts";
export { PAGE_SIZE } from "./machine/index.ts";
export { mappingPublished } from "./oracle/isolation.ts";
export { type CellDescription, cell, type Expected, type Study, type StudyCell, study } from "./studies/study.ts";
