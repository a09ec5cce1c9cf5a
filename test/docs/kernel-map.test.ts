/** docs/kernel-map.md, the data that diagrams are headed from, and the sources say the same. */
import { existsSync } from "node:fs";
import { expect, test } from "vitest";
import { headingOf, KERNEL_MAP } from "../../src/kvm/kernel-map.ts";
import { ROOT, read } from "../house/tree.ts";

interface Row {
  readonly file: string;
  readonly kernel: string;
  readonly ours: readonly string[];
}

/** Rows of the tables below headings that name a source file. */
function rowsOf(markdown: string): Row[] {
  let file = "";
  const rows: Row[] = [];
  for (const line of markdown.split("\n")) {
    file = /^### (src\/\S+\.ts)/.exec(line)?.[1] ?? file;
    const [, kernel, ours] = /^\| `(\w+)\(\)` \| ([^|]+) \|/.exec(line) ?? [];
    if (kernel === undefined || ours === undefined) continue;
    rows.push({ file, kernel, ours: [...ours.matchAll(/`(\w+)(?:\(\))?`/g)].map((match) => match[1] ?? "") });
  }
  return rows;
}

const rows = rowsOf(read("docs/kernel-map.md"));

test("the document and the data have the same pairs", () => {
  const written = rows.flatMap(({ file, kernel, ours }) => ours.map((name) => `${file} ${name} ${kernel}`));
  const data = Object.entries(KERNEL_MAP).flatMap(([file, names]) =>
    Object.entries(names).map(([ours, kernel]) => `src/${file} ${ours} ${kernel}`),
  );
  expect(data.length).toBeGreaterThan(80);
  expect(written.sort()).toEqual(data.sort());
});

test("every function exists in the file that the document names", () => {
  const missing = rows.flatMap(({ file, ours }) => {
    if (!existsSync(ROOT + file)) return [`${file} does not exist`];
    const source = read(file);
    return ours
      .filter((name) => !declares(source, name))
      .map((name) => `${file} has no ${name}: mend docs/kernel-map.md`);
  });
  expect(missing).toEqual([]);
});

function declares(source: string, name: string): boolean {
  return new RegExp(`(?:function\\*? |class |^ {2,}(?:async )?\\*?)${name}\\b[<( ]`, "m").test(source);
}

test("a diagram's heading is the kernel's name, and helpers have none", () => {
  const place = (file: string, name: string): string | null => headingOf({ file, function: name, line: 1 });
  expect(place("any/where/src/kvm/gfn-to-pfn-cache.ts", "refresh_locked")).toBe("__kvm_gpc_refresh()");
  expect(place("any\\where\\dist\\kernel\\mm\\mm.js", "get_user_page_fast")).toBe("get_user_pages_fast_only()");
  expect(place("src/kvm/memslots.ts", "wait_for_invalidations")).toBe("kvm_swap_active_memslots()");
  expect(place("src/kvm/gpc-protocols.ts", "count_up")).toBeNull();
  expect(place("src/studies/gpc-refresh.ts", "use_cache")).toBeNull();
  expect(place("src/machine/page-walk.ts", "npt_walk")).toBe("the CPU walks NPT");
});
