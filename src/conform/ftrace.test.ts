import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { describe, expect, test } from "vitest";
import { UsageError } from "../engine/index.ts";
import { parseTrace, readTrace } from "./ftrace.ts";

const HEADER = [
  "# tracer: nop",
  "#",
  "# entries-in-buffer/entries-written: 2/2   #P:2",
  "#           TASK-PID     CPU#  |||||",
];
const FAULT =
  "           vcpu0-4144    [000] .N.1.        50697: kvm_page_fault: vcpu 0 rip 0x40000200 address 0x0000000040010000 error_code 0x200000006";
const WALK = "  kvm-nx-lpage-re-4150    [001] d..1.   12345.678901: kvm_mmu_walker_error: pferr 0 ";

const trace = (...lines: string[]) => parseTrace("t.txt", [...HEADER, ...lines, ""].join("\n"));

describe("a trace", () => {
  test("gives each event with its text as printed", () => {
    expect(trace(FAULT, WALK).lines).toEqual([
      {
        line: 5,
        task: "vcpu0",
        pid: 4144,
        cpu: 0,
        flags: ".N.1.",
        counter: 50697,
        event: "kvm_page_fault",
        text: "vcpu 0 rip 0x40000200 address 0x0000000040010000 error_code 0x200000006",
      },
      {
        line: 6,
        task: "kvm-nx-lpage-re",
        pid: 4150,
        cpu: 1,
        flags: "d..1.",
        counter: 12345.678901,
        event: "kvm_mmu_walker_error",
        text: "pferr 0 ",
      },
    ]);
  });

  test("without gaps says so", () => {
    expect(trace("##### CPU 1 buffer started ####", FAULT).lost).toEqual([]);
  });

  test("surfaces lost events", () => {
    expect(trace(FAULT, "CPU:1 [LOST 12 EVENTS]", "CPU:0 [LOST EVENTS]").lost).toEqual([
      { line: 6, cpu: 1, count: 12 },
      { line: 7, cpu: 0, count: null },
    ]);
    const overrun = parseTrace("t.txt", `# entries-in-buffer/entries-written: 100/130   #P:2\n${FAULT}\n`);
    expect(overrun.lost).toEqual([{ line: 1, cpu: null, count: 30 }]);
  });

  test("may be packed", () => {
    const directory = mkdtempSync(join(tmpdir(), "racewalk-"));
    const file = join(directory, "t.trace.txt.gz");
    writeFileSync(file, gzipSync(`${FAULT}\r\n`));
    expect(readTrace(file).lines[0]?.event).toBe("kvm_page_fault");
    rmSync(directory, { recursive: true });
  });

  test.each([
    [
      "a line that is none",
      () => trace(FAULT, "hello there"),
      't.txt:6: not a line of a trace: "hello there"; give the text as tracefs printed it',
    ],
    ["a line cut short", () => trace(FAULT.slice(0, 40)), "t.txt:5: not a line of a trace: "],
    ["no events", () => trace(), "t.txt: holds no events; record it again"],
    ["no file", () => readTrace("no.txt"), "no.txt: cannot be read (ENOENT); give a trace file"],
  ])("with %s is refused with one line", (_name, act, expected) => {
    expect(act).toThrow(UsageError);
    expect(act).toThrow(expected);
    expect(act).not.toThrow("\n");
  });
});
