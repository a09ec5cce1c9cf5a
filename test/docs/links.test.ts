/** Links to a part of a document lead to a heading that there is. */
import { posix } from "node:path";
import { expect, test } from "vitest";
import { read } from "../house/tree.ts";
import { documents } from "./documents.ts";

/** Targets with an anchor, as [path, anchor]; the path is relative to the root. */
function anchors(path: string): [string, string][] {
  const prose = read(path).replace(/^```[\s\S]*?^```/gm, "");
  return [...prose.matchAll(/\]\((?!https?:)([^)#\s]*)#([\w-]+)\)/g)].map((match) => {
    const [, target = "", anchor = ""] = match;
    return [target === "" ? path : posix.join(posix.dirname(path), target), anchor];
  });
}

/** What a heading is called in a link. */
function slug(heading: string): string {
  return heading
    .toLowerCase()
    .replace(/[^\w\s-]/g, "")
    .trim()
    .replace(/\s/g, "-");
}

test("every anchor is a heading", () => {
  const found = documents().flatMap(anchors);
  expect(found.length).toBeGreaterThan(3);
  const broken = found.filter(([path, anchor]) => {
    const headings = [...read(path).matchAll(/^#+ (.*)$/gm)].map((match) => slug(match[1] ?? ""));
    return !headings.includes(anchor);
  });
  expect(broken).toEqual([]);
});

test("no document has more than 600 lines", () => {
  expect(documents().filter((path) => read(path).split("\n").length > 600)).toEqual([]);
});
