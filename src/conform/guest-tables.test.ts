/** The tables that are built from a workload, against those that the VMM of the recordings built. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { addU64, numberToU64 } from "../engine/index.ts";
import { GuestTables } from "./guest-tables.ts";
import { type InitialState, readInitialState } from "./initial-state.ts";
import { membersOf } from "./operation.ts";
import { findCases, loadRecording } from "./recording.ts";
import { parseWorkload, readWorkload } from "./workload.ts";

const OWN = join(import.meta.dirname, "../../recordings");
const SHARED = join(import.meta.dirname, "../../../shared/traces");
const hasShared = existsSync(SHARED);

const cases = [OWN, ...(hasShared ? [SHARED] : [])].flatMap((directory) =>
  findCases(directory).map((path) => ({ path, name: path.slice(directory.length + 1) })),
);

if (!hasShared) {
  test.skip("every recorded case: ../shared/traces is not here, only the recordings of the repository were compared", () => {});
}

/** Every entry as "address: value", in order of address. */
function entriesOf(initial: InitialState): string[] {
  const found: [number, string][] = [];
  for (const { gpa, value, entrySize, count, step } of initial.pageTableEntries) {
    let each = value;
    for (let i = 0; i < count; i++) {
      found.push([gpa + i * entrySize, `${(gpa + i * entrySize).toString(16)}: ${each.hi}:${each.lo}/${entrySize}`]);
      each = addU64(each, step);
    }
  }
  return found.sort((a, b) => a[0] - b[0]).map(([, text]) => text);
}

test.each(cases)("$name: control registers and page-table entries are those of the recording", ({ path }) => {
  const name = path.slice(path.lastIndexOf("/") + 1);
  const { initial } = new GuestTables(readWorkload(join(path, `${name}.workload.json`)));
  const recorded = readInitialState(join(path, `${name}.initial.json`));
  expect({ ...initial, pageTableEntries: [] }).toEqual({ ...recorded, pageTableEntries: [] });
  expect(entriesOf(initial)).toEqual(entriesOf(recorded));
});

const storing = cases.filter(({ name }) => /^(sh|direct)-/.test(name));

test.each(storing)("$name: places and values of set_pte and set_cr3 are those of the markers", ({ path }) => {
  const { workload, kernels } = loadRecording(path);
  const tables = new GuestTables(workload);
  for (const { operations } of kernels) {
    workload.ops.forEach((operation, at) => {
      membersOf(operation).forEach((member, nth) => {
        const resolved = operations[at]?.resolved[nth];
        if (member.kind === "guest" && resolved !== undefined) expect(tables.resolve(member)).toEqual(resolved);
      });
    });
  }
});

const bare = (paging: unknown) =>
  parseWorkload("w.json", {
    name: "w",
    memory: [{ gpa: 0, size: "8M", backing: "anon4k" }],
    guest_paging: paging,
    ops: [],
  });

test("5-level paging has one level more, and CR4.LA57", () => {
  const { initial } = new GuestTables(bare("5level identity 2m"));
  expect(initial.cr4).toBe(0x1020);
  expect(entriesOf(initial).slice(0, 3)).toEqual([
    `40010000: 0:${0x40011027}/8`,
    `40011000: 0:${0x40012027}/8`,
    `40012000: 0:${0x40013027}/8`,
  ]);
});

test("4M pages of 32-bit paging", () => {
  const { initial } = new GuestTables(bare({ mode: "32bit", maps: [{ va: 0, pa: 0, len: "8M", page: "4m" }] }));
  expect(entriesOf(initial).slice(0, 2)).toEqual(["40010000: 0:231/4", `40010004: 0:${0x4000e7}/4`]);
});

test("a window elsewhere maps the table pages there", () => {
  const paging = { mode: "4level", maps: [{ va: 0, pa: 0, len: "4M", page: "4k" }], pt_window: "0x80000000" };
  const tables = new GuestTables(bare(paging));
  const store = { kind: "guest", guest: "set_pte", va: 0x1000, level: 1, root: null, flags: "pw", pa: 0x2000 };
  const resolved = tables.resolve(store as unknown as Parameters<GuestTables["resolve"]>[0]);
  expect(resolved).toEqual({ pteAddress: 0x8000_3008, value: numberToU64(0x2003) });
});
