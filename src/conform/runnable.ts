/**
 * Whether a workload can be run without a recording: that its parts fit together as KVM and the host's mm demand, and that it ends in a time that
 * a person waits. A recording has shown that by itself.
 */
import { usageError } from "./json-input.ts";
import { membersOf, type SingleOperation } from "./operation.ts";
import { CONTROL_SLOT, type GuestMap, type Memory, type Workload } from "./workload.ts";

const PAGE = 4096;
/** Tasks that a modelled world can have: each vCPU is one. */
const VCPUS_MAX = 60;
/** Accesses of all operations together. */
const ACCESSES_MAX = 20_000_000;
/** Entries of the guest's tables. */
const ENTRIES_MAX = 4_000_000;

const HUGE_SIZES: Readonly<Record<string, number>> = { hugetlb2m: 512 * PAGE, hugetlb1g: 512 * 512 * PAGE };
const PAGE_SIZES: Readonly<Record<GuestMap["page"], number>> = {
  "4k": PAGE,
  "2m": 512 * PAGE,
  "4m": 1024 * PAGE,
  "1g": 512 * 512 * PAGE,
};

/** @throws UsageError, one line, for the first thing that stands in the way */
export function checkRunnable(workload: Workload): void {
  const { file, vcpus } = workload;
  if (vcpus > VCPUS_MAX)
    throw usageError(file, "vcpus", `${vcpus} are more than a run can hold; use at most ${VCPUS_MAX}`);
  for (const [at, memory] of workload.memory.entries()) checkMemory(workload, memory, at);
  checkOverlaps(workload);
  checkTables(workload);
  let accesses = 0;
  workload.ops.forEach((operation, at) => {
    membersOf(operation).forEach((member, nth) => {
      const place = operation.kind === "par" ? `ops[${at}].par[${nth}]` : `ops[${at}]`;
      accesses += accessesOf(member, workload);
      if (accesses <= ACCESSES_MAX) return;
      const what = `the workload makes more than ${ACCESSES_MAX} accesses up to here; lower count, repeat, times or len`;
      throw usageError(file, place, what);
    });
  });
}

function checkMemory({ file }: Workload, memory: Memory, at: number): void {
  const place = `memory[${at}]`;
  for (const key of ["gpa", "size", "hvaOffset"] as const) {
    if (memory[key] % PAGE === 0) continue;
    const name = key === "hvaOffset" ? "hva_offset" : key;
    throw usageError(file, `${place}.${name}`, `${memory[key]} is no multiple of a page; use a multiple of 4096`);
  }
  if (memory.size === 0) throw usageError(file, `${place}.size`, "is 0; give it at least a page");
  const huge = HUGE_SIZES[memory.backing ?? ""];
  if (huge !== undefined && (memory.size % huge !== 0 || memory.hvaOffset % huge !== 0)) {
    throw usageError(
      file,
      `${place}.size`,
      `is no multiple of the huge page of ${memory.backing}; use a multiple of ${huge}`,
    );
  }
}

/** Memslots that are there from the start. */
function checkOverlaps({ file, memory }: Workload): void {
  const taken: { readonly slot: number; readonly gpa: number; readonly size: number }[] = [CONTROL_SLOT];
  memory.forEach((entry, at) => {
    if (entry.later) return;
    const other = taken.find(({ gpa, size }) => entry.gpa < gpa + size && gpa < entry.gpa + entry.size);
    if (other !== undefined) {
      const hex = `0x${entry.gpa.toString(16)}`;
      throw usageError(file, `memory[${at}].gpa`, `${hex} overlaps memslot ${other.slot}; move it`);
    }
    taken.push(entry);
  });
}

function checkTables({ file, guestPaging, memory }: Workload): void {
  if (guestPaging.mode === "none") return;
  const end = Math.max(0, ...memory.map(({ gpa, size }) => gpa + size));
  const { identity } = guestPaging;
  for (const { maps } of guestPaging.roots) {
    const entries =
      maps.length > 0 || identity === null
        ? maps.reduce((sum, { len, page }) => sum + len / PAGE_SIZES[page], 0)
        : (identity.size ?? end) / PAGE_SIZES[identity.page];
    if (entries <= ENTRIES_MAX) continue;
    throw usageError(
      file,
      "guest_paging",
      `${Math.ceil(entries)} entries are more than a run can hold; use larger pages`,
    );
  }
}

function accessesOf(member: SingleOperation, { memory }: Workload): number {
  const repeat = "repeat" in member ? member.repeat : 1;
  const count = "count" in member ? member.count : 1;
  if (member.kind === "guest") return repeat * count;
  const times = "times" in member ? member.times : 1;
  if (!("mem" in member)) return times;
  const size = memory.find(({ slot }) => slot === member.mem)?.size ?? CONTROL_SLOT.size;
  return Math.max(count, (member.len ?? size) / PAGE) * times;
}
