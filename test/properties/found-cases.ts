/** Workloads that did not agree once, with as few operations as show it (bench/properties/minimise.ts), and what was wrong. */
import type { SeedMachine } from "./random-tdp.ts";

interface FoundCase {
  readonly name: string;
  readonly machine: SeedMachine;
  readonly memory: readonly Readonly<Record<string, unknown>>[];
  readonly settings?: Readonly<Record<string, unknown>>;
  readonly ops: readonly Readonly<Record<string, unknown>>[];
}

/** The workload's document. */
export function documentOfCase({ name, memory, settings, ops }: FoundCase): Readonly<Record<string, unknown>> {
  const kernelParameters = { npt: 1, eager_page_split: "N", ...settings };
  return { name, kernel_params: kernelParameters, memory, caps: [], guest_paging: "4level identity 2m", vcpus: 1, ops };
}

const npt = { paging: "npt", pml: false, slotZapAll: true } as const;
const ept = { paging: "ept", pml: false, slotZapAll: true } as const;
const thp = { slot: 0, gpa: "0x0", size: "0x400000", backing: "thp", hva_offset: 0 };

const startKsm = { host: "write_file", path: "/sys/kernel/mm/ksm/run", value: "1" };
const wait = { host: "sleep", ms: 3600000 };

export const FOUND_CASES: readonly FoundCase[] = [
  {
    name: "KSM took all of a huge page away when it merged one of its small ones",
    machine: { kernel: "v7.2", variants: npt, keepsTranslations: false },
    memory: [thp],
    ops: [
      { guest: "write", addr: "0x17e000", count: 1, stride: 4096, value: "0x21", value_step: 1 },
      { host: "madvise_mergeable", mem: 0, offset: "0x0", len: "0x2000" },
      startKsm,
      wait,
      { host: "poke_ret", mem: 0, offset: "0x40800", count: 2, stride: 4096 },
    ],
  },
  {
    name: "KSM looks at huge pages too, and splits those that it merges parts of",
    machine: { kernel: "v6.12", variants: npt, keepsTranslations: true },
    memory: [thp],
    settings: { eager_page_split: "Y" },
    ops: [
      { guest: "rmw", addr: "0x3f000", count: 1, stride: 4096 },
      startKsm,
      { host: "madvise_mergeable", mem: 0, offset: "0x135000", len: "0x200000" },
      wait,
      { guest: "read", addr: "0x135000", count: 4, stride: 4096 },
    ],
  },
  {
    name: "a part of a huge page that PROT_NONE hid is given back for reading",
    machine: { kernel: "v6.12", variants: npt, keepsTranslations: true },
    memory: [thp],
    ops: [
      { host: "poke", mem: 0, offset: "0x40000", value: "0x11", count: 1, stride: 4096 },
      { host: "mprotect", mem: 0, offset: "0x0", len: "0x400000", prot: "none" },
      { host: "mprotect", mem: 0, offset: "0x17c000", len: "0x2000", prot: "r" },
      { guest: "read", addr: "0x17c000", count: 2, stride: 4096 },
    ],
  },
  {
    name: "a part of a huge page that PROT_NONE hid is given back for writing",
    machine: { kernel: "v6.12", variants: ept, keepsTranslations: false },
    memory: [{ ...thp, size: "0x200000" }],
    ops: [
      { host: "poke", mem: 0, offset: "0x0", value: "0x21", count: 8, stride: 4096 },
      { host: "mprotect", mem: 0, offset: "0x0", len: "0x200000", prot: "none" },
      { host: "mprotect", mem: 0, offset: "0x4c000", len: "0x1b4000", prot: "rwx" },
      { guest: "write", addr: "0x4c000", count: 1, stride: 4096, value: "0x31", value_step: 1 },
    ],
  },
  {
    name: "a write that the VMM may not do was taken for a read first, where an MMIO entry stood, and leaves the page young",
    machine: { kernel: "v7.2", variants: ept, keepsTranslations: false },
    memory: [
      { ...thp, size: "0x200000" },
      { slot: 1, gpa: "0x2000000", size: "0x8000", backing: "anon4k", hva_offset: 0, later: true },
    ],
    ops: [
      { host: "mprotect", mem: 1, offset: "0x4000", len: "0x2000", prot: "r" },
      { guest: "read", addr: "0x2004000", count: 1, stride: 4096 },
      { host: "slot_create", slot: 1, flags: ["dirty_log"] },
      { guest: "write", addr: "0x2004000", count: 1, stride: 4096, value: "0x51", value_step: 1 },
      { host: "age", mode: "clear_young", mem: 1, offset: "0x4000", len: "0x1000" },
    ],
  },
  {
    name: "the same where the MMIO entry comes from pre-faulting",
    machine: { kernel: "v6.12", variants: ept, keepsTranslations: false },
    memory: [
      { ...thp, size: "0x200000" },
      { slot: 1, gpa: "0x2000000", size: "0x8000", backing: "fileprivate", hva_offset: 0, later: true },
    ],
    ops: [
      { host: "prefault", vcpu: 0, gpa: "0x2006000", len: "0x1000" },
      { host: "mprotect", mem: 1, offset: "0x6000", len: "0x1000", prot: "r" },
      { host: "slot_create", slot: 1, flags: [] },
      { guest: "write", addr: "0x2006000", count: 1, stride: 4096, value: "0x41", value_step: 1 },
      { host: "age", mode: "clear_young", mem: 1, offset: "0x6000", len: "0x1000" },
    ],
  },
];
