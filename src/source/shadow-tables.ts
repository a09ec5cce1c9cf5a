/**
 * A compiled kernel's shadow pages and reverse maps, when nobody is working on them: for final predicates. Only direct shadow pages that map 4K are looked
 * at, and reverse maps of that size.
 */
import { ENTRIES_PER_TABLE, PG_LEVEL_4K } from "../machine/index.ts";
import type { CompiledKernel } from "./machine.ts";

/** SPTE_MMU_PRESENT_MASK, since Linux 5.13. */
const MMU_PRESENT = 1 << 11;
const ROLE_LEVEL = 0xf;
/** Of a reverse map's head: it points to a descriptor, and not to the one entry. */
const DESCRIPTOR = 1;

/** Addresses of the present leaves, by the guest frame that they map. */
export function directLeaves(kernel: CompiledKernel, kvm: number): Map<number, number[]> {
  const found = new Map<number, number[]>();
  const head = kvm + kernel.offsetOf("kvm", "arch.active_mmu_pages");
  const field = (page: number, name: string, size: 4 | 8): number =>
    kernel.peek(page + kernel.offsetOf("kvm_mmu_page", name), size);
  for (let link = kernel.peek(head, 8); link !== head; link = kernel.peek(link, 8)) {
    const page = link - kernel.offsetOf("kvm_mmu_page", "link");
    if ((field(page, "role.word", 4) & ROLE_LEVEL) !== PG_LEVEL_4K) continue;
    const [table, gfn] = [field(page, "spt", 8), field(page, "gfn", 8)];
    for (let i = 0; i < ENTRIES_PER_TABLE; i++) {
      const leaf = table + 8 * i;
      if ((kernel.peek(leaf, 4) & MMU_PRESENT) === 0) continue;
      found.set(gfn + i, [...(found.get(gfn + i) ?? []), leaf]);
    }
  }
  return found;
}

/** The entries that a reverse map has. */
function entriesOf(kernel: CompiledKernel, head: number): number[] {
  const value = kernel.peek(head, 8);
  if (value === 0) return [];
  if (value % 2 !== DESCRIPTOR) return [value];
  const countAt = kernel.peek(kernel.addressOf("rw_kept_desc_count"), 4);
  const entriesAt = kernel.peek(kernel.addressOf("rw_kept_desc_sptes"), 4);
  const entries: number[] = [];
  for (let desc = value - DESCRIPTOR; desc !== 0; desc = kernel.peek(desc, 8)) {
    const count = kernel.peek(desc + countAt, 4);
    for (let i = 0; i < count; i++) entries.push(kernel.peek(desc + entriesAt + 8 * i, 8));
  }
  return entries;
}

/**
 * Every present leaf is in the reverse map of its frame, once, and nothing else is in any.
 * @param heads addresses of the reverse maps, from frame 0 on
 * @returns what is wrong; null when all is well
 */
export function rmapProblem(kernel: CompiledKernel, kvm: number, heads: readonly number[]): string | null {
  const leaves = directLeaves(kernel, kvm);
  const text = (addresses: readonly number[]): string =>
    addresses.length === 0 ? "none" : addresses.map((addr) => `0x${addr.toString(16)}`).join(", ");
  for (const [gfn, head] of heads.entries()) {
    const [has, should] = [entriesOf(kernel, head), leaves.get(gfn) ?? []].map((list) =>
      text(list.sort((a, b) => a - b)),
    );
    if (has !== should) return `the reverse map of frame ${gfn} has ${has}, and the entries that map it are: ${should}`;
  }
  const beyond = [...leaves.keys()].find((gfn) => gfn >= heads.length);
  return beyond === undefined ? null : `frame ${beyond} is mapped, and is in no memslot`;
}
