/**
 * What must hold of a compiled kernel's TDP tables when nobody is working on them: KVM's own statistic of pages is the number of present leaves. A fault
 * that overwrote another one's entry without noticing counts a page that is not there, and has lost a table if the entry was of one.
 */
import type { World } from "../engine/index.ts";
import { ENTRIES_PER_TABLE, PAGE_SIZE } from "../machine/index.ts";
import type { CompiledKernel } from "./machine.ts";

/** SPTE_MMU_PRESENT_MASK, since Linux 5.13. */
const MMU_PRESENT = 1 << 11;
const HUGE = 1 << 7;
const ROOT_LEVEL = 4;
const STATS = ["stat.pages_4k", "stat.pages_2m", "stat.pages_1g"];

/** @returns what is wrong; null when all is well. Looks only: for final predicates */
export function tdpTablesProblem(kernel: CompiledKernel, kvm: number, vcpus: readonly number[]): string | null {
  const { world } = kernel;
  const leaves = [0, 0, 0];
  const roots = new Set(vcpus.map((vcpu) => peek(world, vcpu + kernel.offsetOf("kvm_vcpu", "arch.root_mmu.root.hpa"))));
  for (const root of roots) if (root > 0 && root < world.heap.bytes) countLeaves(world, root, ROOT_LEVEL, leaves);
  for (const [i, stat] of STATS.entries()) {
    const counted = peek(world, kvm + kernel.offsetOf("kvm", stat));
    if (counted !== leaves[i]) return `kvm->${stat} is ${counted}, and ${leaves[i]} such pages are mapped`;
  }
  return null;
}

function countLeaves(world: World, table: number, level: number, leaves: number[]): void {
  for (let i = 0; i < ENTRIES_PER_TABLE; i++) {
    const spte = world.heap.read(table + 8 * i, 8);
    const frame = (world.heap.high & 0xfffff) * 0x100000 + (spte >>> 12);
    if ((spte & MMU_PRESENT) === 0) continue;
    if (level === 1 || (spte & HUGE) !== 0) leaves[level - 1] = (leaves[level - 1] as number) + 1;
    else countLeaves(world, frame * PAGE_SIZE, level - 1, leaves);
  }
}

function peek(world: World, addr: number): number {
  const lo = world.heap.read(addr, 8);
  return world.heap.high * 0x1_0000_0000 + lo;
}
