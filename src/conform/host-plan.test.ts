import { existsSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { parseHexU64 } from "../engine/index.ts";
import { HostPlan } from "./host-plan.ts";
import { findCases, type KernelRecording, loadRecording } from "./recording.ts";

const RECORDINGS = fileURLToPath(new URL("../../recordings", import.meta.url));
const SHARED = fileURLToPath(new URL("../../../shared/traces", import.meta.url));

function planOf(name: string, kernel: string): HostPlan {
  const recording = loadRecording(join(RECORDINGS, name), kernel);
  return new HostPlan(recording.kernels[0] as KernelRecording, recording.workload);
}

/** Calls as one line each: kind, event, memory+offset and length. */
const calls = (list: ReturnType<HostPlan["calls"]>) =>
  list.map(({ kind, event, pieces }) => {
    const places = pieces.map(
      ({ memory, offset, length }) => `mem${memory}+${offset.toString(16)} ${length.toString(16)}`,
    );
    return `${kind}${event === null ? "" : ` ${event}`} ${places.join(", ")}`;
  });

describe("what the host decided in tdp-dontneed-4k on 6.12", () => {
  const plan = planOf("tdp-dontneed-4k", "v6.12");

  test("the first fault ever: a page table page, written by the VMM before", () => {
    expect(plan.decide({ operation: 0, vcpu: 0, gfn: 0x40010, taken: 0 })).toMatchObject({
      address: 0x4001_0000,
      rip: 0x4000_0200,
      errorCode: parseHexU64("200000006"),
      before: [],
      after: [],
      requested: { gfn: 0x40010, pfn: 0x5c31, level: 1, hostWritable: true },
    });
  });

  test("MADV_DONTNEED: one invalidation, by the VMM", () => {
    expect(calls(plan.calls(2, "vmm"))).toEqual([
      "invalidate-start 1 mem0+104000 8000",
      "invalidate-end mem0+104000 8000",
    ]);
    expect(plan.calls(2, "vcpu0")).toEqual([]);
    expect(plan.faults(2, 0)).toEqual([]);
  });

  test("a read of what was dropped: the zero page, read-only, for each page the same", () => {
    expect(plan.faults(3, 0)).toHaveLength(8);
    for (let nth = 0; nth < 8; nth++) {
      expect(plan.decide({ operation: 3, vcpu: 0, gfn: 0x104 + nth, taken: nth })?.requested).toEqual({
        gfn: 0x104 + nth,
        pfn: 0x6c73a,
        level: 1,
        hostWritable: false,
      });
    }
  });

  test("a write to it: the host copies in the faulting thread, and only a second fault gets the page", () => {
    const first = plan.decide({ operation: 4, vcpu: 0, gfn: 0x104, taken: 0 });
    expect(first).toMatchObject({ errorCode: parseHexU64("100000007"), requested: null, after: [] });
    expect(calls(first?.before ?? [])).toEqual([
      "invalidate-start 1 mem0+104000 1000",
      "invalidate-end mem0+104000 1000",
    ]);
    const second = plan.decide({ operation: 4, vcpu: 0, gfn: 0x104, taken: 1 });
    expect(second).toMatchObject({
      errorCode: parseHexU64("100000006"),
      before: [],
      requested: { pfn: 0x5dd4, level: 1, hostWritable: true },
    });
  });

  test("a model that took a fault more still finds its page", () => {
    expect(plan.decide({ operation: 4, vcpu: 0, gfn: 0x104, taken: 7 })?.gfn).toBe(0x104);
    expect(plan.decide({ operation: 4, vcpu: 0, gfn: 0x105, taken: 0 })).toMatchObject({ gfn: 0x105, requested: null });
    expect(plan.decide({ operation: 4, vcpu: 0, gfn: 0x7ff, taken: 0 })).toBeNull();
    expect(plan.decide({ operation: 4, vcpu: 3, gfn: 0x7ff, taken: 0 })).toBeNull();
  });

  test("what backed a page, before an operation or else after it", () => {
    expect(plan.backing({ operation: 3, gfn: 0x104 })).toMatchObject({ pfn: 0x6c73a });
    expect(plan.backing({ operation: 2, gfn: 0x104 })).toMatchObject({ pfn: 0x5ddb });
    expect(plan.backing({ operation: 0, gfn: 0x104 })).toMatchObject({ pfn: 0x5ddb });
    expect(plan.backing({ operation: 6, gfn: 0x700 })).toBeNull();
  });

  test("the VMM's own memory is in no piece", () => {
    // The control slot comes into being in the range that the first calls empty, then the stack is protected.
    expect(plan.setup.length).toBeGreaterThan(4);
    expect(plan.setup.at(-2)).toMatchObject({ kind: "invalidate-start", event: 2, pieces: [] });
    expect(plan.teardown.map(({ kind }) => kind)).toContain("release");
  });
});

describe("what the host decided in tdp-touch-thp on 6.12", () => {
  const plan = planOf("tdp-touch-thp", "v6.12");

  test("huge pages", () => {
    expect(plan.decide({ operation: 1, vcpu: 0, gfn: 0x400, taken: 2 })).toMatchObject({
      errorCode: parseHexU64("100000006"),
      before: [],
      after: [],
      requested: { gfn: 0x400, pfn: 0x7000, level: 2, hostWritable: true },
    });
    expect(plan.backing({ operation: 1, gfn: 0x5ff })).toEqual({
      gfn: 0x5ff,
      pfn: 0x71ff,
      level: 2,
      hostWritable: true,
    });
  });

  test("the huge zero page, shared and read-only", () => {
    const pages = plan.faults(2, 0).map((fault) => fault.requested);
    expect(pages).toEqual([
      { gfn: 0x600, pfn: 0x5800, level: 2, hostWritable: false },
      { gfn: 0x800, pfn: 0x5800, level: 2, hostWritable: false },
    ]);
  });

  test("its first write: 6.12 breaks it up, in two invalidations of one fault", () => {
    const [first, second] = plan.faults(6, 0);
    expect(first?.requested).toBeNull();
    expect(calls(first?.before ?? [])).toEqual([
      "invalidate-start 1 mem0+600000 200000",
      "invalidate-end mem0+600000 200000",
      "invalidate-start 1 mem0+600000 1000",
      "invalidate-end mem0+600000 1000",
    ]);
    expect(second?.requested).toEqual({ gfn: 0x600, pfn: 0x6d4c, level: 1, hostWritable: true });
  });
});

test("every fault of every recording is found by its number", ({ skip }) => {
  if (!existsSync(SHARED)) skip("../shared/traces is not here; tdp-dontneed-4k and tdp-touch-thp were looked at");
  for (const directory of findCases(SHARED)) {
    const { workload, kernels } = loadRecording(directory);
    for (const kernel of kernels) {
      const plan = new HostPlan(kernel, workload);
      workload.ops.forEach((_operation, operation) => {
        for (let vcpu = 0; vcpu < workload.vcpus; vcpu++) {
          plan.faults(operation, vcpu).forEach((fault, taken) => {
            expect(fault.taken).toBe(taken);
            if (fault.gfn !== null) expect(plan.decide({ operation, vcpu, gfn: fault.gfn, taken })).toBe(fault);
          });
        }
      });
    }
  }
});
