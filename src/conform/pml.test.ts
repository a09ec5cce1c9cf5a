/** Page-modification logging: the log fills up, the guest is left, and every write is in the dirty log. */
import { expect, test } from "vitest";
import { runWorkload } from "./index.ts";
import { parseWorkload } from "./workload.ts";

const PAGES = 1200;

/** Writes all pages, fetches the log, which clears their dirty flags, and writes all again: each is logged by the CPU then. */
const document = (fetch: object) => ({
  name: "pml",
  kernel_params: { npt: 1 },
  memory: [{ slot: 0, gpa: "0x0", size: "0x800000", backing: "anon4k", hva_offset: 0 }],
  caps: [],
  guest_paging: { mode: "4level", identity: "2m", identity_size: "0x8400000" },
  vcpus: 1,
  ops: [
    { host: "dirty_log", slot: 0, on: true },
    { guest: "write", addr: "0x0", count: PAGES, stride: 4096, value: "0x1", value_step: 1 },
    fetch,
    { guest: "write", addr: "0x0", count: PAGES, stride: 4096, value: "0x2", value_step: 1 },
    fetch,
  ],
});

test.each(["v6.12", "v7.2"])("%s: the guest is left whenever 512 entries are used, and nothing is lost", (kernel) => {
  const workload = parseWorkload("pml", document({ host: "get_dirty_log", slot: 0 }));
  const variants = { paging: "ept", pml: true } as const;
  const { operations } = runWorkload({ workload, initial: null, kernel, recording: null, variants });
  const exits = (op: number): number => operations[op]?.stats.vcpu[0]?.["exits"] ?? Number.NaN;
  // An entry that a fault has made has D already. Then twice 512 of the 1200 fill the log; the last exit is the guest's OUT.
  expect(exits(3) - exits(2)).toBe(3);
  expect(operations[4]?.results?.[0]).toEqual(operations[2]?.results?.[0]);
  expect(operations[3]?.results?.[0]?.["end"]).toBe("done");
});
