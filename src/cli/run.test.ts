/** `racewalk run`: what it prints, and what it refuses. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import picocolors from "picocolors";
import { afterAll, expect, test } from "vitest";
import { parseTrace } from "../conform/index.ts";
import { runCommandLine } from "./command-line.ts";

const CASE = join(import.meta.dirname, "../../recordings/tdp-touch-thp/tdp-touch-thp.workload.json");
const folder = mkdtempSync(join(tmpdir(), "racewalk-run-"));
afterAll(() => rmSync(folder, { recursive: true }));

interface Outcome {
  readonly status: number;
  readonly out: string;
  readonly err: string;
}

async function racewalk(...args: readonly string[]): Promise<Outcome> {
  let out = "";
  let err = "";
  const status = await runCommandLine(["run", ...args], {
    result: (text) => {
      out += text;
    },
    say: (line) => {
      err += `${line}\n`;
    },
    progress: () => {},
    showsProgress: false,
    paint: picocolors.createColors(false),
  });
  return { status, out, err };
}

const TOUCH = { guest: "write", addr: "0x100000" };

/** A workload of one memory of 8M, with something about it changed. */
function workloadFile(changes: object): string {
  const file = join(folder, "w.json");
  const memory = [{ gpa: 0, size: "8M", backing: "anon4k" }];
  const whole = { name: "w", memory, guest_paging: "4level identity 2m", ops: [TOUCH], ...changes };
  writeFileSync(file, JSON.stringify(whole));
  return file;
}

test("the text is tracefs's, with the host's notifier calls", async () => {
  const { status, out, err } = await racewalk(CASE);
  expect({ status, err }).toEqual({ status: 0, err: "" });
  const { lines } = parseTrace("trace.txt", out);
  expect(lines.filter(({ event }) => event === "kvm_page_fault").length).toBe(13);
  const starts = lines.filter(({ event }) => event === "mn_inv_start");
  expect(starts.at(-1)?.task).toBe("vcpu0");
});

test("6.12 splits the huge zero page, 7.2 replaces it", async () => {
  const levels = async (kernel: string): Promise<string[]> => {
    const { out } = await racewalk(CASE, "--set", `kernel=${kernel}`);
    const lines = out.slice(out.indexOf("op 6 begin"), out.indexOf("op 6 end"));
    return [...lines.matchAll(/kvm_mmu_spte_requested: .* level (\d)/g)].map((match) => match[1] ?? "");
  };
  expect(await levels("6.12")).toEqual(["1", "1", "1", "1"]);
  expect(await levels("7.2")).toEqual(["2"]);
});

test("--json has the events, the statistics, and what each operation returned", async () => {
  const ops = [
    { guest: "write", addr: "0x100000", value: "0x1234" },
    { guest: "read", addr: "0x100000" },
    { host: "peek", offset: "0x100000" },
    { host: "mprotect", offset: "0x100000", len: "4K", prot: "none" },
    { guest: "read", addr: "0x100000" },
    { guest: "read", addr: "0x10000000" },
  ];
  const { status, out } = await racewalk(workloadFile({ ops }), "--json");
  expect(status).toBe(0);
  const document = JSON.parse(out) as {
    events: { op: number; event: string }[];
    stats: { vm: object };
    results: object;
  };
  expect(document.results).toEqual([
    [{ vcpu: 0, end: "done", rax: "0x0" }],
    [{ vcpu: 0, end: "done", rax: "0x1234" }],
    [{ host: "peek", rc: 0, value: "0x1234" }],
    [{ host: "mprotect", rc: 0 }],
    [{ vcpu: 0, end: "run_errno_14" }],
    [{ vcpu: 0, end: "guest_pf", cr2: "0x10000000", error_code: "0x0" }],
  ]);
  expect(document.stats.vm).toHaveProperty("remote_tlb_flush");
  expect(document.events.some(({ op, event }) => op === 3 && event === "mn_inv_start")).toBe(true);
});

test("the same workload twice gives the same bytes", async () => {
  expect((await racewalk(CASE)).out).toBe((await racewalk(CASE)).out);
});

const GIB = 1024 ** 3;
const memory = (...entries: object[]): object => ({
  memory: entries.map((entry) => ({ gpa: 0, size: "8M", backing: "anon4k", ...entry })),
});
const one = (operation: object): object => ({ ops: [operation] });

test.each<[string, object, string]>([
  ["an unknown key", { colour: "red" }, "colour"],
  ["an unknown operation", one({ guest: "dance" }), "ops[0].guest: unknown guest operation"],
  ["an address of another kind", one({ guest: "read", addr: true }), "ops[0].addr"],
  ["a memory that is not there", one({ host: "touch", mem: 7 }), "ops[0].mem: there is no memory 7"],
  ["a vcpu that is not there", one({ ...TOUCH, vcpu: 3 }), "ops[0].vcpu: no vcpu 3 among 1"],
  ["a root that is not there", one({ guest: "set_cr3", root: "Z" }), 'ops[0].root: no root is called "Z"'],
  ["a range outside", one({ host: "touch", offset: "8M", len: "4K" }), "ops[0].offset: the range ends outside"],
  ["half a page of memory", memory({ size: 6000 }), "memory[0].size: 6000 is no multiple of a page"],
  ["no memory at all", memory({ size: 0 }), "memory[0].size: is 0"],
  ["memslots that overlap", memory({}, { gpa: "4M" }), "memory[1].gpa: 0x400000 overlaps memslot 0"],
  [
    "a part of a huge page",
    memory({ backing: "hugetlb2m", size: "3M" }),
    "memory[0].size: is no multiple of the huge page",
  ],
  ["too much memory", memory({ size: `${16 * GIB}`, gpa: "0x100000000" }), "MiB are more than a run can hold"],
  ["too many vcpus", { vcpus: 4000 }, "vcpus: 4000 are more than a run can hold"],
  ["too many accesses", one({ ...TOUCH, repeat: 1e12 }), "ops[0]: the workload makes more than"],
  ["too many entries", { guest_paging: { mode: "4level", identity: "4k", identity_size: "1T" } }, "guest_paging:"],
  [
    "tables that do not fit",
    { guest_paging: { mode: "4level", identity: "4k", identity_size: "1G" } },
    "guest_paging:",
  ],
  ["a page that the mode lacks", { guest_paging: "32bit identity 1g" }, "a page of 1g does not exist in 32bit"],
  [
    "a store to a table that is not there",
    { guest_paging: "4level identity 2m", ops: [{ guest: "set_pte", va: "0x1000", level: 1, pa: 0, flags: "p" }] },
    "the guest has no table of level 1",
  ],
])("%s: one line, status 2", async (_what, changes, expected) => {
  const file = workloadFile(changes);
  const { status, out, err } = await racewalk(file);
  expect({ status, out }).toEqual({ status: 2, out: "" });
  expect(err).toContain(`racewalk: ${file}: `);
  expect(err).toContain(expected);
  expect(err.trimEnd().split("\n")).toHaveLength(1);
  expect(err).toContain(";");
});

test("what is not JSON, and a file that is not there", async () => {
  const file = join(folder, "broken.json");
  writeFileSync(file, '{"name": "w",\n "memory": [}');
  expect(await racewalk(file)).toMatchObject({ status: 2, out: "" });
  expect((await racewalk(file)).err).toMatch(
    /^racewalk: .*broken\.json: at line 2 column \d+: not JSON .*; mend the syntax\n$/,
  );
  expect((await racewalk(join(folder, "none.json"))).err).toMatch(/none\.json: cannot be read \(ENOENT\); .*\n$/);
});

test("settings that there are not", async () => {
  expect(await racewalk(CASE, "--set", "kernel=5.4")).toMatchObject({ status: 2, out: "" });
  expect((await racewalk(CASE, "--set", "colour=red")).err).toContain(
    "--set colour=red: no such setting; use kernel=6.12",
  );
});
