import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { gunzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { UsageError } from "../engine/index.ts";
import { layoutOf, piecesOf } from "./host-layout.ts";
import { findCases, loadRecording, runOf } from "./recording.ts";
import type { EventLine } from "./run.ts";
import { parseWorkload } from "./workload.ts";

const RECORDINGS = fileURLToPath(new URL("../../recordings", import.meta.url));

describe("a recording", () => {
  test("is cut into set-up, operations and teardown", () => {
    const recording = loadRecording(join(RECORDINGS, "tdp-touch-4k"));
    expect(recording).toMatchObject({ name: "tdp-touch-4k", race: false });
    expect(recording.kernels.map(({ kernel }) => kernel)).toEqual(["v6.12", "v7.2"]);
    const [old, current] = recording.kernels;
    expect(old?.operations).toHaveLength(9);
    expect(current?.slots).toMatchObject([
      { slot: 100, gpa: 0x4000_0000, size: 0x10_0000, flags: 0, hva: 0x7ff5_5d40_0000 },
      { slot: 0, gpa: 0, size: 0x80_0000, flags: 0, hva: 0x7ff5_5c80_0000 },
    ]);
    expect(current?.machine).toMatchObject({ physicalAddressBits: 40, virtualAddressBits: 48 });
    expect(current?.machine.moduleParams["kvm.tdp_mmu"]).toBe("Y");
    expect(current?.setup.at(-1)?.text).toBe("setup done");
    expect(current?.operations[0]?.lines[0]?.event).toBe("mmu_load");
    expect(current?.operations[0]?.stats.vm).toMatchObject({ pages_4k: 5 });
    expect(current?.operations[1]?.result).toEqual([{ vcpu: 0, end: "done", rax: "0x0" }]);
    expect(current?.teardown[0]?.event).toBe("mn_release");
  });

  test("may be loaded for one kernel", () => {
    const recording = loadRecording(join(RECORDINGS, "tdp-touch-4k"), "v7.2");
    expect(recording.kernels.map(({ kernel }) => kernel)).toEqual(["v7.2"]);
  });

  test("counts flushes by their probe", () => {
    const [kernel] = loadRecording(join(RECORDINGS, "tdp-dontneed-4k")).kernels;
    expect(kernel && runOf(kernel).operations.map(({ flushes }) => flushes)).toEqual([0, 0, 1, 0, 8, 1, 0]);
  });

  test("is found below a directory", () => {
    expect(findCases(RECORDINGS)).toHaveLength(5);
    expect(findCases(join(RECORDINGS, "tdp-touch-4k"))).toEqual([join(RECORDINGS, "tdp-touch-4k")]);
  });
});

describe("a recording that cannot be used is refused with one line", () => {
  let directory: string;
  const caseDirectory = () => join(directory, "tdp-touch-hugetlb");
  const trace = () => join(caseDirectory(), "v7.2/tdp-touch-hugetlb.trace.txt");

  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), "racewalk-"));
  });
  afterAll(() => {
    rmSync(directory, { recursive: true });
  });

  const original = () => {
    const file = join(RECORDINGS, "tdp-touch-hugetlb/v7.2/tdp-touch-hugetlb.trace.txt.gz");
    return gunzipSync(readFileSync(file)).toString("utf8");
  };

  test.each([
    [
      "an operation without an end",
      () => writeFileSync(trace(), original().replace(/.*op 0 end\n/, "")),
      /trace\.txt:\d+: marker out of order: "op 1 begin/,
    ],
    [
      "an operation too few",
      () => writeFileSync(trace(), original().replace(/.*op 3 (begin|end).*\n/g, "")),
      /trace\.txt: has 3 complete operations, the workload 4; record/,
    ],
    [
      "an end that comes early",
      () => writeFileSync(trace(), original().replace(/(.*op 0 begin.*\n)/, "$1$1")),
      /trace\.txt:\d+: marker out of order: "op 0 begin/,
    ],
    [
      "statistics of another run",
      () => writeFileSync(join(caseDirectory(), "v7.2/tdp-touch-hugetlb.stats.json"), '[{"op":-1,"vm":{},"vcpu":[]}]'),
      /stats\.json: has 1 entries for 4 operations; record/,
    ],
    [
      "statistics in the wrong form",
      () =>
        writeFileSync(
          join(caseDirectory(), "v7.2/tdp-touch-hugetlb.stats.json"),
          '[{"op":-1,"vm":{"a":"b"},"vcpu":[]}]',
        ),
      /stats\.json: at \[0\]\.vm\.a: .*; compare it/,
    ],
    [
      "a bad index",
      () => writeFileSync(join(directory, "index.json"), "{}"),
      /index\.json: at the top level: expected a list of cases; write/,
    ],
  ])("%s", (_name, spoil, expected) => {
    cpSync(join(RECORDINGS, "tdp-touch-hugetlb"), caseDirectory(), { recursive: true });
    cpSync(join(RECORDINGS, "index.json"), join(directory, "index.json"));
    spoil();
    const act = () => loadRecording(caseDirectory(), "v7.2");
    expect(act).toThrow(UsageError);
    expect(act).toThrow(expected);
    expect(act).not.toThrow("\n");
    rmSync(caseDirectory(), { recursive: true });
  });

  test("directories that are no case", () => {
    expect(() => loadRecording(join(directory, "none"))).toThrow(/none: does not exist; name the directory of a case/);
    expect(() => loadRecording(RECORDINGS)).toThrow(/must hold one \*\.workload\.json; name the directory of one case/);
    expect(() => loadRecording(join(RECORDINGS, "tdp-touch-4k"), "v5.9")).toThrow(
      /holds no trace of v5\.9; expected KERNEL/,
    );
  });
});

describe("the host's layout", () => {
  const marker = (text: string): EventLine => ({ task: "vmm", event: "tracing_mark_write", text });
  const unmap = (start: string, end: string): EventLine => ({
    task: "vmm",
    event: "mn_inv_start",
    text: `(kvm_mmu_notifier_invalidate_range_start+0x4/0x3c0 [kvm]) start=0x${start} end=0x${end} event=0`,
  });
  const workload = parseWorkload("w.json", {
    name: "w",
    guest_paging: "none",
    ops: [],
    memory: [
      { gpa: 0, size: "4M", backing: "anon4k" },
      { gpa: "1G", size: "4M", alias_of: 0 },
      { gpa: "2G", size: "1M", backing: "anon4k", later: true },
      { gpa: "3G", size: "2M", backing: "anon4k" },
    ],
  });
  const setup = [
    marker("setup create_vm"),
    unmap("7f0000f00000", "7f0001000000"),
    marker("setup slot 100 gpa 0x40000000 size 0x100000 flags 0 hva 0x7f0000f00000"),
    unmap("7f0000400000", "7f0000800000"),
    marker("setup slot 0 gpa 0x0 size 0x400000 flags 0 hva 0x7f0000400000"),
    marker("setup slot 1 gpa 0x40000000 size 0x400000 flags 0 hva 0x7f0000400000"),
    unmap("7f0000300000", "7f0000400000"),
    unmap("7f0000000000", "7f0000200000"),
    marker("setup slot 3 gpa 0xc0000000 size 0x200000 flags 0 hva 0x7f0000000000"),
    marker("setup create_vcpu 0"),
  ];

  test("has memory that comes later, and no place of their own for aliases", () => {
    const layout = layoutOf(setup, workload);
    expect(layout.slotsMade).toBe(4);
    expect(layout.places.map(({ memory, hva }) => [memory, hva.toString(16)])).toEqual([
      [100, "7f0000f00000"],
      [0, "7f0000400000"],
      [3, "7f0000000000"],
      [2, "7f0000300000"],
    ]);
  });

  test("cuts ranges at the ends of memory", () => {
    const layout = layoutOf(setup, workload);
    expect(piecesOf(layout, 0x7f00_003f_f000, 0x7f00_0040_2000)).toEqual([
      { memory: 0, offset: 0, length: 0x2000 },
      { memory: 2, offset: 0xff000, length: 0x1000 },
    ]);
    expect(piecesOf(layout, 0x7fff_0000_0000, 0x7fff_0001_0000)).toEqual([]);
  });
});
