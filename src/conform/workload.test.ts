import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { UsageError, u64 } from "../engine/index.ts";
import { readInitialState } from "./initial-state.ts";
import { membersOf } from "./operation.ts";
import { parseWorkload, readWorkload } from "./workload.ts";

const RECORDINGS = fileURLToPath(new URL("../../recordings", import.meta.url));

const SMALL = {
  name: "small",
  kernel_params: { npt: 1 },
  memory: [{ slot: 0, gpa: "0x0", size: "8M", backing: "anon4k" }],
  guest_paging: "4level identity 2m",
  vcpus: 1,
  ops: [] as unknown[],
};

const withOps = (...ops: unknown[]) => ({ ...SMALL, ops });
const withMemory = (...memory: unknown[]) => ({ ...SMALL, memory: [...SMALL.memory, ...memory] });

/** Runs `act`, which must refuse its input, and returns the message. */
function refusal(act: () => unknown): string {
  try {
    act();
  } catch (error) {
    expect(error).toBeInstanceOf(UsageError);
    return (error as UsageError).message;
  }
  throw new Error("the input was accepted");
}

function inFile<T>(content: string, act: (file: string) => T): T {
  const directory = mkdtempSync(join(tmpdir(), "racewalk-"));
  try {
    const file = join(directory, "input.json");
    writeFileSync(file, content);
    return act(file);
  } finally {
    rmSync(directory, { recursive: true });
  }
}

describe("a workload", () => {
  test("has its defaults filled in", () => {
    const workload = parseWorkload("w.json", withOps({ guest: "write", addr: "0x100000" }, { host: "fork" }));
    expect(workload.ops).toEqual([
      {
        kind: "guest",
        guest: "write",
        vcpu: 0,
        cpl: 0,
        addr: 0x100000,
        count: 1,
        stride: 4096,
        repeat: 1,
        size: null,
        value: u64(0, 0),
        value_step: u64(0, 0),
      },
      { kind: "host", host: "fork", cpu: null },
    ]);
    expect(workload.memory).toEqual([
      {
        slot: 0,
        gpa: 0,
        size: 8 << 20,
        backing: "anon4k",
        later: false,
        hvaOffset: 0,
        alias: null,
        flags: { dirtyLog: false, readonly: false },
      },
    ]);
    expect(workload.guestPaging).toEqual({
      mode: "4level",
      identity: { page: "2m", size: null },
      root: "A",
      ptBase: null,
      ptWindow: true,
      roots: [{ name: "A", maps: [] }],
    });
    expect(workload.kernelParams).toMatchObject({ npt: true, tdpMmu: true, eagerPageSplit: true, nxHugePages: false });
    expect([workload.guestNx, workload.guestWp, workload.guestPge]).toEqual([true, true, false]);
  });

  test("may use everything that the format has", () => {
    const workload = parseWorkload("w.json", {
      ...SMALL,
      kernel_params: { npt: 0, tdp_mmu: "N", eager_page_split: "N", nx_huge_pages: "force" },
      memory: [
        { slot: 0, gpa: "0x0", size: "8M", backing: "fileprivate", flags: ["dirty_log"], hva_offset: "0x1000" },
        { slot: 1, gpa: "0x10000000", size: "1G", backing: "hugetlb1g", later: true },
        { slot: 2, gpa: "0x20000000", size: 4096, alias_of: 0, alias_offset: "4K", flags: ["readonly"] },
      ],
      caps: [{ cap: "dirty_ring", arg: 65536 }],
      guest_paging: {
        mode: "pae",
        pt_base: "2M",
        pt_window: false,
        root: "B",
        maps: [{ va: 0, pa: 0, len: "2M", page: "2m", flags: "pwuadsgtcx" }],
        roots: [{ name: "A" }, { name: "B", maps: [{ va: "4M", pa: 0, len: "4K" }] }],
      },
      guest_nx: false,
      guest_wp: false,
      guest_pge: true,
      vcpus: 2,
      trace_exits: true,
      extra_probes: ["srcu_sync"],
      ops: [
        { guest: "cr3_alternate", roots: ["A", "B"], addr: 0, count: 6, vcpu: 1, cpl: 3 },
        { guest: "set_pte", va: 0, level: 1, value: "0x8000000000000067", size: 4, root: "B", no_table: true },
        { guest: "set_cr4", clear: "0x80" },
        { host: "madvise_populate_write", mem: 0, offset: "1M", len: "4K" },
        { host: "mremap_swap", offset: 0, len: 4096, to: 8192 },
        { par: [{ host: "repeat_madvise", advice: "cold", times: 3, usleep: 5, cpu: 1 }, { guest: "nop" }] },
        { host: "peek", mem: 100 },
      ],
    });
    expect(workload.kernelParams).toMatchObject({
      npt: false,
      tdpMmu: false,
      eagerPageSplit: false,
      nxHugePages: true,
    });
    expect(workload.memory[2]).toMatchObject({
      backing: null,
      alias: { of: 0, offset: 4096 },
      flags: { readonly: true },
    });
    expect(workload.guestPaging.roots[1]?.maps.map((map) => [map.va, map.page])).toEqual([
      [0, "2m"],
      [4 << 20, "4k"],
    ]);
    expect(workload.ops[1]).toMatchObject({ value: u64(0x8000_0000, 0x67), no_table: true });
    expect(workload.ops[3]).toMatchObject({ kind: "host", host: "madvise", advice: "populate_write" });
    expect(workload.ops.flatMap(membersOf)).toHaveLength(8);
  });

  test("of a recording can be read", () => {
    const workload = readWorkload(join(RECORDINGS, "tdp-touch-4k/tdp-touch-4k.workload.json"));
    expect(workload.ops.map((operation) => (operation.kind === "guest" ? operation.guest : operation.kind))).toEqual([
      "nop",
      "write",
      "read",
      "host",
      "exec",
      "read",
      "write",
      "rmw",
      "write",
    ]);
  });
});

describe("a workload that cannot be used is refused with one line", () => {
  const cases: readonly (readonly [string, unknown, string])[] = [
    ["no object", [], "at the top level: expected an object, not []; write { ... }"],
    ["a missing key", { ...SMALL, name: undefined }, 'at name: is missing; add a name, as "tdp-touch-4k"'],
    [
      "an unknown key",
      { ...SMALL, vcpu: 2 },
      'at the top level: unknown key "vcpu"; remove it or use one of name, note',
    ],
    ["an unknown parameter", { ...SMALL, kernel_params: { npx: 1 } }, 'at kernel_params: unknown key "npx"; remove it'],
    [
      "a bad number of vcpus",
      { ...SMALL, vcpus: "two" },
      'at vcpus: expected a number of vcpus (1 to 4096), not "two"; write 1',
    ],
    [
      "a size that is none",
      withMemory({ slot: 1, gpa: 0, size: "8Q", backing: "thp" }),
      'at memory[1].size: expected a size, not "8Q"',
    ],
    [
      "a backing that is none",
      withMemory({ slot: 1, gpa: 0, size: 4096, backing: "disk" }),
      "at memory[1].backing: expected a backing (anon4k,",
    ],
    [
      "memory without backing",
      withMemory({ slot: 1, gpa: 0, size: 4096 }),
      "at memory[1].backing: is missing; add what backs it",
    ],
    [
      "a memory twice",
      withMemory({ slot: 0, gpa: 0, size: 4096, backing: "thp" }),
      "at memory[1].slot: memory 0 exists already; number it anew",
    ],
    [
      "an alias of nothing",
      withMemory({ slot: 1, gpa: 0, size: 4096, alias_of: 7 }),
      "at memory[1].alias_of: no memory 7 before it; name an",
    ],
    [
      "a paging that is none",
      { ...SMALL, guest_paging: "3level" },
      'at guest_paging: unknown paging "3level"; write "none" or',
    ],
    [
      "a paging mode that is none",
      { ...SMALL, guest_paging: { mode: "3level" } },
      "at guest_paging.mode: expected a paging mode (none, 4level,",
    ],
    [
      "a map with a bad flag",
      { ...SMALL, guest_paging: { mode: "pae", maps: [{ va: 0, pa: 0, len: 1, flags: "z" }] } },
      "at guest_paging.maps[0].flags:",
    ],
    [
      "an unknown root",
      { ...SMALL, guest_paging: { mode: "pae", roots: [{ name: "A" }], root: "B" } },
      'at guest_paging.root: no root is called "B"',
    ],
    [
      "an unknown guest operation",
      withOps({ guest: "jump" }),
      'at ops[0].guest: unknown guest operation "jump"; use one of nop, write',
    ],
    [
      "an unknown host operation",
      withOps({ host: "reboot" }),
      'at ops[0].host: unknown host operation "reboot"; use one of dirty_log',
    ],
    ["an unknown advice", withOps({ host: "madvise_hope" }), "at ops[0].advice: expected an advice (normal,"],
    [
      "an operation without a name",
      withOps({ op: "nop" }),
      'at ops[0]: has neither "guest" nor "host"; name the operation by one',
    ],
    [
      "an operation with two",
      withOps({ guest: "nop", host: "fork" }),
      'at ops[0]: has both "guest" and "host"; keep one',
    ],
    ["an operation that is none", withOps("nop"), 'at ops[0]: expected an operation, not "nop"; write {"guest": ...}'],
    [
      "an unknown key of an operation",
      withOps({ guest: "nop", addr: 1 }),
      'at ops[0]: unknown key "addr"; remove it or use one of guest',
    ],
    [
      "a par in a par",
      withOps({ par: [{ par: [] }] }),
      'at ops[0].par[0]: "par" inside "par"; list all members in one',
    ],
    [
      "a bad key in a par",
      withOps({ par: [{ guest: "nop" }, { guest: "read" }] }),
      "at ops[0].par[1].addr: is missing; add a guest address",
    ],
    [
      "a vcpu too many",
      withOps({ guest: "nop", vcpu: 1 }),
      "at ops[0].vcpu: no vcpu 1 among 1; raise vcpus or use another",
    ],
    [
      "a memslot of nothing",
      withOps({ host: "slot_delete", slot: 3 }),
      "at ops[0].slot: no memory makes a memslot 3; add it to memory",
    ],
    [
      "a memory that is not there",
      withOps({ host: "punch", mem: 3 }),
      "at ops[0].mem: there is no memory 3; add it to memory",
    ],
    [
      "a range past the end",
      withOps({ host: "punch", offset: "8M", len: 1 }),
      "at ops[0].offset: the range ends outside memory 0 of",
    ],
    [
      "a root of nothing",
      withOps({ guest: "set_cr3", root: "Z" }),
      'at ops[0].root: no root is called "Z"; use one of A',
    ],
  ];

  test.each(cases)("%s", (_name, input, expected) => {
    const message = refusal(() => parseWorkload("w.json", JSON.parse(JSON.stringify(input))));
    expect(message).toContain(`w.json: ${expected}`);
    expect(message).not.toContain("\n");
    expect(message).toMatch(/; \S/);
  });

  test.each([
    ['{\n "name": oops}', "line 2 column 10"],
    ['{"a": [1, 2}', "line 1 column 12"],
    ['{"a": 1', "line 1 column 8"],
    ["", "line 1 column 1"],
    ['{"a": "\\q"}', "line 1 column 7"],
    ["{} {}", "line 1 column 4"],
    ["{'a': 1}", "line 1 column 2"],
  ])("text that is not JSON: %s", (content, place) => {
    const message = refusal(() => inFile(content, readWorkload));
    expect(message).toMatch(/^\S+input\.json: at line \d+ column \d+: not JSON \([^;]*\); mend the syntax$/);
    expect(message).toContain(`at ${place}:`);
  });

  test("a file that is not there", () => {
    expect(refusal(() => readWorkload("no/such.json"))).toBe(
      "no/such.json: cannot be read (ENOENT); give the path of a readable file",
    );
  });
});

describe("an initial state", () => {
  const state = { cr0: "0x80010011", cr3: "0x40010000", cr4: "0x20", efer: "0xd00" };

  test("has registers and runs of entries", () => {
    const file = join(RECORDINGS, "tdp-touch-4k/tdp-touch-4k.initial.json");
    const initial = readInitialState(file);
    expect(initial).toMatchObject({ cr0: 0x8001_0011, cr3: 0x4001_0000, cr4: 0x20, efer: 0xd00 });
    expect(initial.pageTableEntries).toHaveLength(6);
    expect(initial.pageTableEntries[2]).toEqual({
      gpa: 0x4001_2000,
      value: u64(0, 0xe7),
      entrySize: 8,
      count: 4,
      step: u64(0, 0x20_0000),
    });
  });

  test.each([
    [
      "a row too short",
      { ...state, page_table_entries: [["0x0", "0x0", 8]] },
      "at page_table_entries[0]: has 3 columns; write address, value",
    ],
    [
      "an odd entry size",
      { ...state, page_table_entries: [["0x0", "0x0", 5, 1, "0x0"]] },
      "at page_table_entries[0][2]: expected bytes of an entry",
    ],
    ["a missing register", { cr0: "0x1", page_table_entries: [] }, "at cr3: is missing; add a value of CR3"],
  ])("with %s is refused with one line", (_name, input, expected) => {
    const message = refusal(() => inFile(JSON.stringify(input), readInitialState));
    expect(message).toContain(`input.json: ${expected}`);
    expect(message).not.toContain("\n");
  });
});
