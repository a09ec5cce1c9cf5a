/** What the host does to a random guest (random-guest.ts) meanwhile. */
import type { Chance } from "./chance.ts";

const PAGE = 0x1000;
/** Where memory 1 may be. */
export const MEMORY_1 = [0x2000_0000, 0x2800_0000] as const;

export const hex = (value: number): string => `0x${value.toString(16)}`;

export class RandomHost {
  private readonly chance: Chance;
  /** The log is cleared by hand. */
  private readonly isManual: boolean;
  private forks = 0;
  private readonly logged = new Set<number>();
  private slot1: "there" | "gone" = "there";

  constructor(chance: Chance, isManual: boolean) {
    this.chance = chance;
    this.isManual = isManual;
  }

  /** What it does next: one operation, or some that belong together. */
  operations(): object[] {
    const { chance } = this;
    const made: object[] = [];
    const kind = chance.weighted({
      age: 6,
      log: 4,
      fetch: 5,
      swap: 3,
      fork: 2,
      protect: 2,
      discard: 3,
      remap: 1,
      slot: 3,
      quota: 1,
      nx: 1,
      collapse: 1,
      ksm: 1,
    });
    const push = (operation: object): unknown => made.push(operation);
    const inMemory0 = {
      mem: 0,
      ...chance.pick([
        { offset: "0x10000", len: "32K" },
        { offset: "0x0", len: "4M" },
        { offset: "0x100000", len: "256K" },
      ]),
    };
    const inMemory1 = { mem: 1, offset: hex(PAGE * chance.between(0, 3)), len: chance.pick(["4K", "8K", "64K"]) };
    switch (kind) {
      case "age": {
        const mode = chance.pick(["clear_flush_young", "clear_young", "test_young"]);
        push({ host: "age", mode, ...(chance.happens(0.7) ? inMemory0 : inMemory1) });
        break;
      }
      case "log": {
        const slot = chance.pick([0, 0, 1, 100]);
        const on = !this.logged.has(slot);
        if (on) this.logged.add(slot);
        else this.logged.delete(slot);
        if (slot !== 1 || this.slot1 === "there") push({ host: "dirty_log", slot, on });
        break;
      }
      case "fetch": {
        const slot = chance.pick([...this.logged, 0]);
        push({ host: "get_dirty_log", slot });
        if (this.isManual && chance.happens(0.7))
          push({ host: "clear_dirty_log", slot, first: 0, pages: slot === 0 ? 1024 : 64 });
        break;
      }
      case "swap":
        push({
          host: chance.pick(["madvise_pageout", "madvise_cold"]),
          ...(chance.happens(0.6) ? inMemory0 : inMemory1),
        });
        break;
      case "fork":
        if (this.forks > 0) {
          this.forks--;
          push({ host: "fork_exit" });
        } else {
          this.forks++;
          push({ host: "fork" });
        }
        break;
      case "protect": {
        const range = chance.happens(0.5) ? inMemory0 : inMemory1;
        push({ host: "mprotect", ...range, prot: chance.pick(["r", "none"]) });
        push({ host: "mprotect", ...range, prot: "rwx" });
        break;
      }
      case "discard":
        push({ host: chance.pick(["madvise_dontneed", "madvise_dontneed", "punch", "touch"]), ...inMemory1 });
        break;
      case "remap":
        push({ host: "munmap", ...inMemory1 });
        push({ host: "mmap_fixed", ...inMemory1 });
        break;
      case "slot":
        this.moveSlot(push);
        break;
      case "quota":
        push({ host: "nr_mmu_pages", pages: 64 });
        break;
      case "nx":
        push({ host: "write_file", path: "/sys/module/kvm/parameters/nx_huge_pages", value: chance.pick(["Y", "N"]) });
        break;
      case "collapse":
        push({ host: "madvise_collapse", mem: 0, offset: "0x0", len: "4M" });
        break;
      case "ksm":
        push({ host: "madvise_mergeable", mem: 0, offset: "0x10000", len: "32K" });
        push({ host: "write_file", path: "/sys/kernel/mm/ksm/run", value: "1" });
        push({ host: "sleep", ms: 1000 });
        push({ host: "write_file", path: "/sys/kernel/mm/ksm/run", value: "0" });
        break;
    }
    return made;
  }

  private moveSlot(push: (operation: object) => unknown): void {
    if (this.slot1 === "gone") {
      this.slot1 = "there";
      push({ host: "slot_create", slot: 1, gpa: hex(this.chance.pick(MEMORY_1)) });
    } else if (this.chance.happens(0.5)) {
      push({ host: "slot_move", slot: 1, gpa: hex(this.chance.pick(MEMORY_1)) });
    } else {
      this.slot1 = "gone";
      this.logged.delete(1);
      push({ host: "slot_delete", slot: 1 });
    }
  }
}
