import { existsSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { compareRuns } from "./compare.ts";
import { breachesOf, INVARIANTS } from "./invariants.ts";
import { findCases, loadRecording, runOf } from "./recording.ts";
import type { EventLine, WorkloadRun } from "./run.ts";
import { parseWorkload } from "./workload.ts";

const RECORDINGS = fileURLToPath(new URL("../../recordings", import.meta.url));
const SHARED = fileURLToPath(new URL("../../../shared/traces", import.meta.url));

const WORKLOAD = parseWorkload("w.json", {
  name: "w",
  guest_paging: "none",
  memory: [
    { gpa: 0, size: "4M", backing: "anon4k" },
    { gpa: "256M", size: "4M", backing: "anon4k", later: true },
  ],
  ops: [
    { guest: "nop" },
    { host: "slot_create", slot: 1 },
    { guest: "nop" },
    { host: "slot_delete", slot: 1 },
    { guest: "nop" },
  ],
});

const SP = (level: number, gfn: string, end: string) =>
  `sp gen 0 gfn ${gfn} l${level} 8-byte q0 direct rwux nxe ad root 0 ${end}`;
const changed = (gfn: string, level: number, from: string, to: string) =>
  `kvm_tdp_mmu_spte_changed: as id 0 gfn ${gfn} level ${level} old_spte ${from} new_spte ${to}`;

const NONE = "8000000000000000";
const FROZEN = "80000000000001a0";
const ROOT = `kvm_mmu_get_page: ${SP(4, "0", "sync new")}`;

/** A run whose operations have the given events, written `[task] event: text`. */
function run(...operations: readonly (readonly string[])[]): WorkloadRun {
  const line = (text: string): EventLine => {
    const m = /^(?:\[(\S+)\] )?(\S+): (.*)$/.exec(text) as RegExpExecArray;
    return { task: m[1] ?? "vcpu0", event: m[2] as string, text: m[3] as string };
  };
  const stats = { vm: {}, vcpu: [{}] };
  return {
    setup: [],
    operations: operations.map((events) => ({ events: events.map(line), stats, flushes: 0 })),
    teardown: [],
  };
}

/** Names of what a run breaks, with the operation; the teardown, which these runs lack, aside. */
const broken = (of: WorkloadRun) =>
  breachesOf(of, WORKLOAD)
    .filter(({ invariant }) => invariant !== "tdp-teardown-complete")
    .map(({ invariant, section }) => `${invariant} in ${section}`);

describe("invariants hold", () => {
  const none = (root: string) => {
    for (const directory of findCases(root)) {
      const { name, workload, kernels } = loadRecording(directory);
      for (const kernel of kernels) expect(breachesOf(runOf(kernel), workload), `${name} ${kernel.kernel}`).toEqual([]);
    }
  };

  test("in every recording here", () => none(RECORDINGS));

  test("in every recording of the team", ({ skip }) => {
    if (!existsSync(SHARED)) skip("../shared/traces is not here; only recordings/ was checked");
    none(SHARED);
  });
});

describe("an invariant finds what breaks it:", () => {
  const cases: readonly (readonly [string, readonly string[], string])[] = [
    [
      "an old value that nobody left",
      [ROOT, changed("1", 1, NONE, "5000e67"), changed("1", 1, "6000e67", NONE)],
      "tdp-spte-chain in 0",
    ],
    [
      "an entry made twice",
      [ROOT, changed("1", 1, NONE, "5000e67"), changed("1", 1, NONE, "5000e67")],
      "tdp-spte-chain in 0",
    ],
    [
      "a leaf that changes its frame",
      [ROOT, changed("1", 1, NONE, "5000e67"), changed("1", 1, "5000e67", "6000e67")],
      "present-leaf-keeps-its-frame in 0",
    ],
    ["W without MMU-writable", [ROOT, changed("1", 1, NONE, "5000a67")], "writable-implies-permitted in 0"],
    [
      "MMU-writable without host-writable",
      ["kvm_mmu_set_spte: gfn 1 spte 5000c65 (r-xu) level 1 at 7000008"],
      "writable-implies-permitted in 0",
    ],
    ["a leaf outside memory", [ROOT, changed("400", 1, NONE, "5000e67")], "leaf-inside-a-memslot in 0"],
    ["a leaf larger than its memslot", [ROOT, changed("0", 3, NONE, "40000ee7")], "leaf-inside-a-memslot in 0"],
    ["MMIO over memory", ["mark_mmio_spte: sptep:00000000fe18727a gfn 1 access 7 gen 4"], "mmio-outside-memslots in 0"],
    [
      "a mapping larger than requested",
      [
        "kvm_mmu_spte_requested: gfn 0 pfn 5000 level 1 access f",
        "kvm_mmu_set_spte: gfn 0 spte 5000ee7 (rwxu) level 2 at 7000008",
      ],
      "mapping-not-larger-than-requested in 0",
    ],
    ["a frozen entry that changes", [ROOT, changed("1", 1, FROZEN, "5000e67")], "frozen-entry-is-final in 0"],
    ["a page zapped twice", [ROOT, `kvm_mmu_prepare_zap_page: ${SP(1, "0", "sync")}`], "zapped-page-was-made in 0"],
    ["a sync of a page that is", [`kvm_mmu_sync_page: ${SP(1, "0", "unsync")}`], "sync-after-unsync in 0"],
    [
      "a fast page fault on a protected page",
      ["fast_page_fault: vcpu 0 gva 1000 error_code P|W sptep 1 old 0x5000a65 new 5000a67 spurious 0 fixed 1"],
      "fast-page-fault-needs-mmu-writable in 0",
    ],
  ];

  test.each(cases)("%s", (_name, events, expected) => {
    expect(broken(run(events))).toContain(expected);
  });

  test("an entry that outlives the VM", () => {
    const left = breachesOf(run([ROOT, changed("1", 1, NONE, "5000e67")]), WORKLOAD);
    expect(left).toMatchObject([{ invariant: "tdp-teardown-complete", section: 1, line: null }]);
  });

  test("statistics that count something else", () => {
    const events = [
      ROOT,
      "kvm_page_fault: vcpu 0 rip 0x1 address 0x1000 error_code 0x6",
      changed("1", 1, NONE, "5000e67"),
    ];
    const honest = run(events);
    const [operation] = honest.operations;
    if (operation === undefined) throw new Error("one operation");
    const withStats = (pages: number, faults: number): WorkloadRun => ({
      ...honest,
      operations: [{ ...operation, stats: { vm: { pages_4k: pages }, vcpu: [{ pf_taken: faults }] } }],
    });
    expect(broken(withStats(1, 1))).toEqual([]);
    expect(broken(withStats(2, 1))).toEqual(["page-statistics-count-leaves in 0"]);
    expect(broken(withStats(1, 0))).toEqual(["vcpu-statistics-count-events in 0"]);
  });

  test("a leaf in a memslot that is not there yet, or any more", () => {
    const leaf = changed("10000", 1, NONE, "5000e67");
    const unmap = changed("10000", 1, "5000e67", NONE);
    expect(broken(run([ROOT, leaf]))).toEqual(["leaf-inside-a-memslot in 0"]);
    expect(broken(run([ROOT], [leaf, unmap], [leaf, unmap], [leaf, unmap]))).toEqual([]);
    expect(broken(run([], [], [], [], [ROOT, leaf]))).toEqual(["leaf-inside-a-memslot in 4"]);
  });

  test("each of them does", () => {
    const found = new Set(cases.map(([, , expected]) => expected.replace(/ in \d+$/, "")));
    const elsewhere = ["tdp-teardown-complete", "page-statistics-count-leaves", "vcpu-statistics-count-events"];
    expect(INVARIANTS.map(({ name }) => name).filter((name) => !found.has(name))).toEqual(elsewhere);
  });
});

describe("what may happen without an event is allowed:", () => {
  test.each([
    ["A and D set by the hardware", [changed("1", 1, NONE, "5000e07"), changed("1", 1, "5000e67", NONE)]],
    ["W set by a fast page fault", [changed("1", 1, NONE, "5000e65"), changed("1", 1, "5000e67", NONE)]],
    [
      "entries born in a split table",
      [changed("0", 2, NONE, "600ee7"), changed("0", 2, "600ee7", "7000827"), changed("5", 1, "605e67", NONE)],
    ],
    [
      "an entry made again after it was frozen",
      [changed("1", 1, NONE, "5000e67"), changed("1", 1, "5000e67", FROZEN), changed("1", 1, NONE, "5000e67")],
    ],
    [
      "a second root",
      [changed("1", 1, NONE, "5000e67"), ROOT, changed("1", 1, NONE, "5000e67"), changed("1", 1, "5000e67", NONE)],
    ],
  ])("%s", (_name, events) => {
    expect(broken(run([ROOT, ...events]))).toEqual([]);
  });
});

describe("the score of a race", () => {
  const recording = loadRecording(join(RECORDINGS, "tdp-dontneed-4k"), "v7.2");
  const recorded = runOf(recording.kernels[0] as (typeof recording.kernels)[number]);
  const compare = (other: WorkloadRun) =>
    compareRuns({ case: "tdp-dontneed-4k", kernel: "v7.2", race: true, workload: recording.workload, recorded, other });

  test("is the share of operations in which all invariants held", () => {
    expect(compare(recorded)).toMatchObject({ race: true, events: 7, matched: 7, score: 1, firstDivergence: null });
    const bad: EventLine = {
      task: "vcpu0",
      event: "kvm_mmu_set_spte",
      text: "gfn 1 spte 5000c65 (r-xu) level 1 at 7000008",
    };
    const other = {
      ...recorded,
      operations: recorded.operations.map((operation, at) =>
        at === 3 ? { ...operation, events: [...operation.events, bad] } : operation,
      ),
    };
    const result = compare(other);
    expect(result).toMatchObject({ events: 7, matched: 6 });
    expect(result.firstDivergence).toMatchObject({ operation: 3, reason: "invariant", task: "vcpu0" });
    expect(result.firstDivergence?.expected).toMatch(/^writable-implies-permitted: In a leaf, W implies/);
    expect(result.firstDivergence?.actual).toBe(
      "model: kvm_mmu_set_spte: gfn 1 spte 5000c65 (r-xu) level 1 at 7000008: 5000c65 is MMU-writable but not host-writable",
    );
  });

  test("counts operations that were not run as broken", () => {
    const result = compare({ ...recorded, operations: recorded.operations.slice(0, 5) });
    expect(result).toMatchObject({ events: 7, matched: 5, firstDivergence: { operation: 5, reason: "missing" } });
  });
});
