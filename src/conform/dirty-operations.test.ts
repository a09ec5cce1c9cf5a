/** What the VMM is told by the operations of dirty logging and aging, in runs without a recording. */
import { describe, expect, test } from "vitest";
import { runWorkload } from "./model.ts";
import type { OperationResult } from "./run.ts";
import { parseWorkload } from "./workload.ts";

const MEMORY = { gpa: "0x0", size: "4M", backing: "anon4k" };
const get = { host: "get_dirty_log", slot: 0 };
const log = { host: "dirty_log", slot: 0, on: true };
const write = (page: number, count = 1) => ({ guest: "write", addr: `0x${(page * 4096).toString(16)}`, count });
const clear = (first: number, pages: number) => ({ host: "clear_dirty_log", slot: 0, first, pages });

/** The results of a workload's operations. @param more other keys of the workload */
function resultsOf(kernel: string, ops: readonly object[], more: object = {}): readonly OperationResult[] {
  const document = { name: "t", memory: [MEMORY], guest_paging: "none", vcpus: 1, ...more, ops };
  const run = runWorkload({ workload: parseWorkload("t.json", document), initial: null, kernel, recording: null });
  expect(run.notModelled).toEqual([]);
  return run.operations.map(({ results }) => results?.[0] ?? {});
}

const dirty = (results: readonly OperationResult[]) =>
  results.flatMap((result) => ("dirty" in result ? [result["dirty"]] : []));

describe.each(["v6.12", "v7.2"])("%s", (kernel) => {
  test("each log has what was written since the last one", () => {
    const ops = [write(16, 4), log, write(17, 2), get, get, write(16), write(300), get];
    expect(dirty(resultsOf(kernel, ops))).toEqual([
      [[17, 2]],
      [],
      [
        [16, 1],
        [300, 1],
      ],
    ]);
  });

  test("no log without logging, and none with rings", () => {
    expect(resultsOf(kernel, [get])[0]).toMatchObject({ rc: -2 });
    const caps = [{ cap: "dirty_ring", arg: 65536 }];
    expect(resultsOf(kernel, [log, get], { caps })[1]).toMatchObject({ rc: -6 });
  });

  test("with manual protection only clearing takes bits away, in whole words but for the end", () => {
    const caps = [{ cap: "manual_dirty_log_protect2", arg: 1 }];
    const ops = [log, write(60, 8), get, get, clear(64, 64), get, clear(1, 64), clear(0, 100), clear(0, 1024), get];
    const results = resultsOf(kernel, ops, { caps });
    expect(dirty(results)).toEqual([[[60, 8]], [[60, 8]], [[60, 4]], []]);
    expect(results.map(({ rc }) => rc).slice(6, 9)).toEqual([-22, -22, 0]);
  });

  test.each(["thp", "hugetlb2m"])(
    "initially set: all are dirty, and huge pages are split when bits are cleared (%s)",
    (backing) => {
      const more = { caps: [{ cap: "manual_dirty_log_protect2", arg: 3 }], memory: [{ ...MEMORY, backing }] };
      const ops = [write(0), log, get, clear(0, 512), write(5), write(600), get];
      expect(dirty(resultsOf(kernel, ops, more))).toEqual([
        [[0, 1024]],
        [
          [5, 1],
          [512, 512],
        ],
      ]);
    },
  );

  test("a ring has each page once until it is reset, and a full one stops the vCPU", () => {
    const caps = [{ cap: "dirty_ring", arg: 4096 }];
    const collect = { host: "ring_collect" };
    const more = { caps, memory: [{ ...MEMORY, flags: ["dirty_log"] }] };
    const results = resultsOf(
      kernel,
      [write(1, 3), write(1, 3), collect, write(2), collect, write(0, 400), collect],
      more,
    );
    expect(results[2]).toMatchObject({
      vcpu0_ring: [
        [0, 1],
        [0, 2],
        [0, 3],
      ],
      collected: 3,
      reset: 3,
    });
    expect(results[4]).toMatchObject({ vcpu0_ring: [[0, 2]] });
    // 256 entries, of which 64 are kept free.
    expect(results[5]).toMatchObject({ end: "exit_31" });
    expect(results[6]).toMatchObject({ collected: 192, reset: 192 });
  });

  test("ages", () => {
    const age = (mode: string, page: number) => ({ host: "age", mode, mem: 0, offset: page * 4096, len: 4096 });
    const ops = [
      write(3),
      age("test_young", 3),
      age("clear_young", 3),
      age("test_young", 3),
      age("test_young", 4),
      write(3),
      age("clear_flush_young", 3),
    ];
    expect(resultsOf(kernel, ops).flatMap(({ young }) => (young === undefined ? [] : [young]))).toEqual([
      "1",
      "1",
      "0",
      "0",
      "1",
    ]);
  });

  test("a page that is executed is split where huge pages are not executable, and comes back", () => {
    const parameter = (name: string, value: string) => ({
      host: "write_file",
      path: `/sys/module/kvm/parameters/nx_huge_pages${name}`,
      value,
    });
    const more = { memory: [{ ...MEMORY, backing: "thp" }], kernel_params: { npt: 1, nx_huge_pages: "force" } };
    const ops = [
      { host: "poke_ret", mem: 0, offset: "0x200000", count: 1 },
      { guest: "exec", addr: "0x200000", count: 1 },
      parameter("_recovery_ratio", "1"),
      parameter("_recovery_period_ms", "100"),
      { host: "sleep", ms: 150 },
      { guest: "read", addr: "0x200000", count: 1 },
      parameter("", "off"),
    ];
    const document = { name: "t", guest_paging: "none", vcpus: 1, ...more, ops };
    const run = runWorkload({ workload: parseWorkload("t.json", document), initial: null, kernel, recording: null });
    const statistic = (name: string) => run.operations.map(({ stats }) => stats.vm[name]);
    expect(statistic("nx_lpage_splits")).toEqual([0, 1, 1, 1, 0, 0, 0]);
    expect(statistic("pages_2m")).toEqual([0, 0, 0, 0, 0, 1, 0]);
  });
});
