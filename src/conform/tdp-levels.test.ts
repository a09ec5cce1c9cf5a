/** Roots of 4 and of 5 levels: when KVM takes which, and that the CPU and the MMU agree on them. */
import { expect, test } from "vitest";
import { kvmMmuGetTdpLevel } from "../kvm/tdp-level.ts";
import type { KvmVariants } from "../kvm/variants.ts";
import { runWorkload } from "./index.ts";
import { parseWorkload } from "./workload.ts";

test.each([
  ["npt", 4, 48, 4],
  ["npt", 5, 48, 5],
  ["npt", 5, 52, 5],
  ["ept", 4, 52, 4],
  ["ept", 5, 48, 4],
  ["ept", 5, 52, 5],
  ["ept-no-ad", 5, 49, 5],
] as const)("%s, at most %i levels, %i bits: %i", (paging, maxTdpLevel, maxPhyAddr, levels) => {
  expect(kvmMmuGetTdpLevel({ paging, maxTdpLevel, maxPhyAddr })).toBe(levels);
});

const workload = parseWorkload("levels", {
  name: "levels",
  kernel_params: { npt: 1 },
  memory: [
    { slot: 0, gpa: "0x0", size: "0x200000", backing: "anon4k", hva_offset: 0 },
    // Beyond 48 bits: the guest's tables do not reach it, pre-faulting does.
    { slot: 1, gpa: "0x1000000000000", size: "0x8000", backing: "anon4k", hva_offset: 0 },
  ],
  caps: [],
  guest_paging: { mode: "4level", identity: "2m", identity_size: "0x8400000" },
  vcpus: 1,
  ops: [
    { guest: "write", addr: "0x5000", count: 2, stride: 4096, value: "0x21", value_step: 1 },
    { host: "prefault", vcpu: 0, gpa: "0x1000000003000", len: "0x2000" },
    { host: "peek", mem: 0, offset: "0x6000" },
    { host: "slot_delete", slot: 1 },
  ],
});

/** Events of tables that were made, as `l5`, by operation. */
function run(variants: Partial<KvmVariants>) {
  const { operations } = runWorkload({ workload, initial: null, kernel: "v7.2", recording: null, variants });
  const tables = operations.map(({ events }) =>
    events.flatMap(({ event, text }) => (event === "kvm_mmu_get_page" ? [/ (l\d) /.exec(text)?.[1] ?? ""] : [])),
  );
  return { operations, tables };
}

test.each(["npt", "ept", "ept-no-ad"] as const)("%s: five levels, and memory beyond 48 bits", (paging) => {
  const { operations, tables } = run({ paging, maxTdpLevel: 5, maxPhyAddr: 52 });
  // The first run makes the root and what the guest's code and tables need; another part of the root gets tables of its own.
  expect([...new Set(tables[0])].sort()).toEqual(["l1", "l2", "l3", "l4", "l5"]);
  expect(tables[1]).toEqual(["l4", "l3", "l2", "l1"]);
  expect(operations[1]?.stats.vm["pages_4k"]).toBe((operations[0]?.stats.vm["pages_4k"] ?? 0) + 2);
  expect(operations[2]?.results?.[0]?.["value"]).toBe("0x22");
  // All roots went with the slot.
  expect(operations[3]?.stats.vm["pages_4k"]).toBe(0);
});

test("EPT for a guest of 48 bits has four", () => {
  const { tables } = run({ paging: "ept", maxTdpLevel: 5, maxPhyAddr: 48 });
  expect([...new Set(tables[0])].sort()).toEqual(["l1", "l2", "l3", "l4"]);
});
