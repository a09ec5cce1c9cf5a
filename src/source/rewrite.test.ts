import { expect, test } from "vitest";
import { rewrite } from "./rewrite.ts";

/** One function around some instructions, as clang 14 prints it. */
function body(...instructions: readonly string[]): string {
  return [
    "define dso_local void @f(i64* %p, i32* %q) {",
    ...instructions.map((line) => `  ${line}`),
    "  ret void",
    "}",
  ].join("\n");
}

function rewritten(...instructions: readonly string[]): string[] {
  const { ir } = rewrite(body(...instructions), "/linux", 7);
  const lines = ir.split("\n").map((line) => line.trim());
  return lines.slice(1, lines.indexOf("ret void"));
}

test("marked and plain loads become calls that give the value", () => {
  expect(rewritten("%1 = load volatile i64, i64* %p, align 8")).toEqual([
    "%rw.0 = ptrtoint i64* %p to i64",
    "%rw.1 = call i64 @rw_load_marked(i64 %rw.0, i32 8, i32 0)",
    "%1 = add i64 %rw.1, 0",
  ]);
  expect(rewritten("%1 = load i32, i32* %q, align 4")[1]).toContain("@rw_load(i64 %rw.0, i32 4");
});

test("opaque pointers are understood too", () => {
  const { ir } = rewrite(body("%1 = load i64, ptr %p, align 8"), "/linux", 0);
  expect(ir).toContain("ptrtoint ptr %p to i64");
});

test("stores, read-modify-writes and compare-exchanges", () => {
  expect(rewritten("store i32 5, i32* %q, align 4").at(-1)).toMatch(
    /call void @rw_store\(i64 %rw.0, i64 %rw.1, i32 4, i32 0\)/,
  );
  expect(rewritten("%1 = atomicrmw add i32* %q, i32 1 seq_cst, align 4").join("\n")).toContain("@rw_rmw(i32 1,");
  const exchange = rewritten("%1 = cmpxchg i64* %p, i64 0, i64 1 seq_cst seq_cst, align 8");
  expect(exchange.join("\n")).toContain("@rw_cmpxchg(i64 %rw.0, i64 0, i64 1, i32 8, i32 0)");
  expect(exchange.at(-1)).toMatch(/^%1 = insertvalue \{ i64, i1 \}/);
});

test("local variables stay what they are", () => {
  const lines = ["%1 = alloca i64, align 8", "store i64 1, i64* %1, align 8", "%2 = load i64, i64* %1, align 8"];
  expect(rewritten(...lines)).toEqual(lines);
});

test("compiler barriers go, other assembly complains when it is reached", () => {
  expect(rewritten('call void asm sideeffect "", "~{memory}"()')).toEqual([]);
  expect(rewritten('call void asm sideeffect "wbinvd", "~{memory}"()')).toEqual(["call void @rw_asm(i32 0)"]);
});
