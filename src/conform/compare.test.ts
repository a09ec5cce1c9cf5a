import { existsSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { hexU64, parseHexU64, type U64, u64 } from "../engine/index.ts";
import { type CaseResult, compareWithRecording } from "./compare.ts";
import { formatDivergence } from "./divergence-text.ts";
import * as mmu from "./mmu-event.ts";
import { findCases, type KernelRecording, loadRecording, type Recording, runOf } from "./recording.ts";
import type { EventLine, OperationRun, WorkloadRun } from "./run.ts";

const RECORDINGS = fileURLToPath(new URL("../../recordings", import.meta.url));
/** All recordings; beside the repository where the team works, absent in a clone. */
const SHARED = fileURLToPath(new URL("../../../shared/traces", import.meta.url));

type Edit = (line: EventLine) => EventLine;

function mapEvents(run: WorkloadRun, edit: Edit): WorkloadRun {
  return {
    ...run,
    setup: run.setup.map(edit),
    operations: run.operations.map((operation) => ({ ...operation, events: operation.events.map(edit) })),
    teardown: run.teardown.map(edit),
  };
}

/** Gives every host frame in the events another number, everywhere the same. */
function renameFrames(run: WorkloadRun, rename: (frame: number) => number): WorkloadRun {
  const withFrame = (spte: U64): string => {
    if (!mmu.isPresent(spte)) return hexU64(spte);
    const frame = rename(mmu.frameOf(spte));
    const rest = mmu.withoutFrame(spte);
    return hexU64(u64(rest.hi | Math.floor(frame / 0x10_0000), rest.lo | ((frame % 0x10_0000) << 12)));
  };
  return mapEvents(run, (line) => {
    if (mmu.kindOf(line.event, line.text) !== "tracepoint") return line;
    const text = line.text
      .replace(/\bpfn ([0-9a-f]+)/, (whole, digits: string) => {
        const pfn = mmu.parsePfn(digits);
        return pfn === null ? whole : `pfn ${rename(pfn).toString(16)}`;
      })
      .replace(
        /\b(spte|old_spte|new_spte|old|new) ((?:0x)?)([0-9a-f]{2,16})\b/g,
        (_whole, field: string, prefix: string, digits: string) => {
          return `${field} ${prefix}${withFrame(parseHexU64(digits))}`;
        },
      )
      .replace(/ at ([0-9a-f]+)$/, (_whole, digits: string) => {
        const at = Number.parseInt(digits, 16);
        return ` at ${(rename(Math.floor(at / 4096)) * 4096 + (at % 4096)).toString(16)}`;
      });
    return { ...line, text };
  });
}

/** A permutation of frame numbers below 2^28 that keeps nothing together. */
const scatter = (frame: number) => Number((BigInt(frame) * 0x9e3779b1n + 12345n) % (1n << 28n));

/** Replaces the events of one operation. */
function editOperation(run: WorkloadRun, at: number, edit: (operation: OperationRun) => OperationRun): WorkloadRun {
  return { ...run, operations: run.operations.map((operation, index) => (index === at ? edit(operation) : operation)) };
}

const editEvents = (run: WorkloadRun, at: number, edit: (events: EventLine[]) => EventLine[]) =>
  editOperation(run, at, (operation) => ({ ...operation, events: edit([...operation.events]) }));

function load(name: string, kernel: string): { recording: Recording; kernel: KernelRecording; run: WorkloadRun } {
  const recording = loadRecording(join(RECORDINGS, name), kernel);
  const only = recording.kernels[0] as KernelRecording;
  return { recording, kernel: only, run: runOf(only) };
}

/** The place of the nth event of a kind in an operation. */
function placeOf(run: WorkloadRun, operation: number, event: string, nth = 0): number {
  const places = (run.operations[operation]?.events ?? []).flatMap((line, at) => (line.event === event ? [at] : []));
  return places[nth] as number;
}

function eachRecording(root: string, check: (recording: Recording, kernel: KernelRecording) => void): number {
  const cases = findCases(root);
  for (const directory of cases) {
    const recording = loadRecording(directory);
    for (const kernel of recording.kernels) check(recording, kernel);
  }
  return cases.length;
}

describe("every recording", () => {
  const sameAsItself = (recording: Recording, kernel: KernelRecording) => {
    const result = compareWithRecording(recording, kernel, runOf(kernel));
    expect(result).toMatchObject({ score: 1, firstDivergence: null });
    expect(result.events).toBe(result.matched);
    expect(result.flushes.equal).toBe(result.flushes.compared);
  };
  const sameRenamed = (rename: (frame: number) => number) => (recording: Recording, kernel: KernelRecording) => {
    const result = compareWithRecording(recording, kernel, renameFrames(runOf(kernel), rename));
    expect(result, formatDivergence(result)).toMatchObject({ score: 1, firstDivergence: null });
  };

  test("here agrees with itself", () => {
    expect(eachRecording(RECORDINGS, sameAsItself)).toBe(5);
  });

  test("here agrees with itself under other frame numbers", () => {
    eachRecording(RECORDINGS, sameRenamed(scatter));
    eachRecording(
      RECORDINGS,
      sameRenamed((frame) => frame + 0x100_0000),
    );
  });

  test("of the team agrees with itself, renamed or not", ({ skip }) => {
    if (!existsSync(SHARED)) skip("../shared/traces is not here; only recordings/ was compared");
    eachRecording(SHARED, sameAsItself);
    eachRecording(SHARED, sameRenamed(scatter));
  });
});

describe("a planted difference is found, and costs:", () => {
  const NAME = "tdp-dontneed-4k";
  const { recording, kernel, run } = load(NAME, "v7.2");
  const whole = compareWithRecording(recording, kernel, run);
  const against = (other: WorkloadRun): CaseResult => compareWithRecording(recording, kernel, other);
  /** Operation 1 writes 24 pages for the first time. */
  const OPERATION = 1;
  const at = placeOf(run, OPERATION, "kvm_mmu_set_spte", 3);
  const recorded = run.operations[OPERATION]?.events[at] as EventLine;

  test("one flipped SPTE bit", () => {
    const other = editEvents(run, OPERATION, (events) => {
      events[at] = { ...recorded, text: recorded.text.replace(/e67 /, "e65 ") };
      return events;
    });
    const result = against(other);
    expect(result.matched).toBe(whole.matched - 1);
    expect(result.events).toBe(whole.events);
    expect(result.firstDivergence).toMatchObject({
      operation: OPERATION,
      task: "vcpu0",
      reason: "different",
      expected: `kvm_mmu_set_spte: ${recorded.text}`,
      actual: `kvm_mmu_set_spte: ${recorded.text.replace(/e67 /, "e65 ")}`,
      request: { guest: "write", addr: "0x100000", count: 24, stride: 4096 },
    });
    expect(result.firstDivergence?.context).toHaveLength(4);
  });

  test("one missing event", () => {
    const result = against(editEvents(run, OPERATION, (events) => events.toSpliced(at, 1)));
    expect([result.matched, result.events]).toEqual([whole.matched - 1, whole.events]);
    expect(result.firstDivergence).toMatchObject({
      reason: "missing",
      expected: `kvm_mmu_set_spte: ${recorded.text}`,
      actual: null,
    });
  });

  test("one extra event", () => {
    const result = against(editEvents(run, OPERATION, (events) => events.toSpliced(at, 0, recorded)));
    expect([result.matched, result.events]).toEqual([whole.matched, whole.events + 1]);
    expect(result.firstDivergence).toMatchObject({
      reason: "extra",
      expected: null,
      actual: `kvm_mmu_set_spte: ${recorded.text}`,
    });
  });

  test("an extra event does not make up for a missing one elsewhere", () => {
    const missing = editEvents(run, OPERATION, (events) => events.toSpliced(at, 1));
    const result = against(editEvents(missing, 4, (events) => events.toSpliced(0, 0, recorded)));
    expect([result.matched, result.events]).toEqual([whole.matched - 1, whole.events + 1]);
  });

  test("two swapped events", () => {
    const result = against(
      editEvents(run, OPERATION, (events) => {
        [events[at], events[at + 1]] = [events[at + 1] as EventLine, events[at] as EventLine];
        return events;
      }),
    );
    expect([result.matched, result.events]).toEqual([whole.matched - 1, whole.events]);
  });

  test("an event in another thread", () => {
    const result = against(
      editEvents(run, OPERATION, (events) => {
        events[at] = { ...recorded, task: "vmm" };
        return events;
      }),
    );
    expect(result.matched).toBe(whole.matched - 1);
  });

  test("one wrong statistic", () => {
    const result = against(
      editOperation(run, 2, (operation) => {
        const { vm, vcpu } = operation.stats;
        return { ...operation, stats: { vm: { ...vm, pages_4k: (vm["pages_4k"] ?? 0) + 1 }, vcpu } };
      }),
    );
    expect([result.matched, result.events]).toEqual([whole.matched - 1, whole.events]);
    expect(result.firstDivergence).toMatchObject({
      operation: 2,
      task: "vm",
      reason: "statistic",
      expected: "statistic vm.pages_4k: 22",
      actual: "statistic vm.pages_4k: 23",
    });
  });

  test("two frames taken for one", () => {
    const framesOf = run.operations[OPERATION]?.events.flatMap((line) => {
      const event = line.event === "kvm_mmu_set_spte" ? mmu.parseSetSpte(line.text) : null;
      return event === null ? [] : [mmu.frameOf(event.spte)];
    }) as number[];
    const [first, second] = [framesOf[5] as number, framesOf[9] as number];
    const result = against(renameFrames(run, (frame) => (frame === second ? first : frame)));
    expect(result.score).toBeLessThan(1);
    expect(result.firstDivergence).toMatchObject({ operation: OPERATION, reason: "frames" });
  });

  test("one frame taken for two, in a request only", () => {
    const requested = placeOf(run, OPERATION, "kvm_mmu_spte_requested", 3);
    const result = against(
      editEvents(run, OPERATION, (events) => {
        const line = events[requested] as EventLine;
        events[requested] = { ...line, text: line.text.replace(/pfn [0-9a-f]+/, "pfn fffff") };
        return events;
      }),
    );
    expect(result.score).toBeLessThan(1);
    expect(result.firstDivergence).toMatchObject({ operation: OPERATION, reason: "frames" });
  });

  test("a wrong old value", () => {
    const unmapped = placeOf(run, 2, "kvm_tdp_mmu_spte_changed", 2);
    const result = against(
      editEvents(run, 2, (events) => {
        const line = events[unmapped] as EventLine;
        events[unmapped] = { ...line, text: line.text.replace(/old_spte [0-9a-f]+e67/, "old_spte ffffe67") };
        return events;
      }),
    );
    expect(result.matched).toBe(whole.matched - 1);
    expect(result.firstDivergence).toMatchObject({ operation: 2, reason: "frames" });
  });

  test("flushes, but only beside the score", () => {
    const result = against(editOperation(run, 2, (operation) => ({ ...operation, flushes: 3 })));
    expect(result.score).toBe(1);
    expect(result.flushes).toMatchObject({ recorded: 10, actual: 12 });
    expect(result.flushes.firstDifference).toEqual({ operation: 2, name: "flushes", expected: 1, actual: 3 });
  });

  test("a run that ended early", () => {
    const result = against({ ...run, operations: run.operations.slice(0, 3), teardown: [] });
    expect(result.events).toBe(whole.events);
    expect(result.firstDivergence).toMatchObject({ operation: 3, reason: "missing", actual: null });
  });

  test("the other kernel", () => {
    for (const name of ["tdp-touch-4k", "tdp-touch-thp", "tdp-touch-hugetlb", "tdp-guest-nopaging", NAME]) {
      const old = load(name, "v6.12");
      const result = compareWithRecording(old.recording, old.kernel, load(name, "v7.2").run);
      expect(result.score).toBeLessThan(0.9);
      expect(result.firstDivergence).not.toBeNull();
    }
  });
});

describe("a frame that has left", () => {
  const { recording, kernel, run } = load("tdp-dontneed-4k", "v7.2");

  test("may come back under another number", () => {
    // After operation 5 (MADV_DONTNEED of everything) the pages of operation 6 are new ones.
    const late = { ...run, operations: run.operations.slice(6), setup: [], teardown: [] };
    const renamed = renameFrames(late, (frame) => (frame === dataFrame() ? frame ^ 0x40_0000 : frame))
      .operations[0] as OperationRun;
    const result = compareWithRecording(recording, kernel, {
      ...run,
      operations: run.operations.with(6, renamed),
      teardown: renameFrames({ ...run, operations: [] }, (frame) => (frame === dataFrame() ? frame ^ 0x40_0000 : frame))
        .teardown,
    });
    expect(result, formatDivergence(result)).toMatchObject({ score: 1 });
  });

  function dataFrame(): number {
    const line = run.operations[6]?.events.find(
      ({ event, text }) => event === "kvm_mmu_set_spte" && text.startsWith("gfn 100 "),
    );
    return mmu.frameOf((mmu.parseSetSpte(line?.text ?? "") as mmu.SetSpte).spte);
  }
});

describe("threads in parallel", () => {
  const { recording, kernel, run } = load("tdp-dontneed-4k", "v7.2");
  const interleave = (operation: OperationRun): OperationRun => {
    const other = operation.events.slice(0, 40).map((line) => ({ ...line, task: "vcpu1" }));
    return { ...operation, events: [...operation.events, ...other] };
  };
  const reversed = (operation: OperationRun): OperationRun => {
    const own = operation.events.filter((line) => line.task === "vcpu0");
    return { ...operation, events: [...operation.events.filter((line) => line.task !== "vcpu0"), ...own] };
  };
  const twice = {
    ...kernel,
    operations: kernel.operations.map((operation) => ({ ...operation, lines: [...operation.lines] })),
  };
  const lines = twice.operations[1]?.lines ?? [];
  lines.push(...lines.slice(0, 40).map((line) => ({ ...line, task: "vcpu1" })));
  const other = editOperation(editOperation(run, 1, interleave), 1, reversed);

  test("have no order among them", () => {
    const member = recording.workload.ops[1];
    if (member === undefined || member.kind === "par") throw new Error("operation 1 writes");
    const ops = recording.workload.ops.with(1, { kind: "par", members: [member, member] });
    const result = compareWithRecording({ ...recording, workload: { ...recording.workload, ops } }, twice, other);
    expect(result).toMatchObject({ score: 1, firstDivergence: null });
  });

  test("have one otherwise", () => {
    expect(compareWithRecording(recording, twice, other).score).toBeLessThan(1);
  });
});

describe("the text of a divergence", () => {
  const { recording, kernel, run } = load("tdp-touch-4k", "v7.2");

  test("fits a mail", () => {
    const at = placeOf(run, 1, "kvm_mmu_set_spte");
    const other = editEvents(run, 1, (events) => {
      const line = events[at] as EventLine;
      events[at] = { ...line, text: line.text.replace("(rwxu)", "(r-xu)") };
      return events;
    });
    const text = formatDivergence(compareWithRecording(recording, kernel, other));
    expect(text).toMatchInlineSnapshot(`
      "tdp-touch-4k v7.2: score 0.9980, 520 of 521
      first divergence: operation 1, event 3, vcpu0: the model has another
        event here
        {"guest":"write","addr":"0x100000","count":16,"stride":4096}
          vcpu0 kvm_page_fault: vcpu 0 rip 0x40000012 address
            0x0000000040012000 error_code 0x200000006
          vcpu0 kvm_mmu_spte_requested: gfn 40012 pfn 23164 level 1 access f
          vcpu0 kvm_tdp_mmu_spte_changed: as id 0 gfn 40012 level 1 old_spte
            8000000000000000 new_spte 23164e67
        - kvm_mmu_set_spte: gfn 40012 spte 23164e67 (rwxu) level 1 at 24f0090
        + kvm_mmu_set_spte: gfn 40012 spte 23164e67 (r-xu) level 1 at 24f0090"
    `);
    for (const line of text.split("\n")) expect(line.length).toBeLessThanOrEqual(72);
  });

  test("of runs that agree is one line", () => {
    const text = formatDivergence(compareWithRecording(recording, kernel, run));
    expect(text).toMatch(/^tdp-touch-4k v7\.2: score 1\.0000, \d+ of \d+$/);
  });
});
