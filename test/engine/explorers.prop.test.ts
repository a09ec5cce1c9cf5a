/**
 * The explorers are held against brute force and against a machine that shares no code with the engine, on random small programs. A share of
 * what `node bench/explorers/run.ts` does; a failure prints the program as that command takes it.
 */
import { describe, expect, test } from "vitest";
import type { MemoryModel } from "../../src/engine/index.ts";
import { campaign, newTotals } from "./campaign.ts";
import { compareExplorers } from "./comparison.ts";
import { FLAVOURS, sizeFor } from "./flavours.ts";
import { parseTiny, showTiny } from "./tiny.ts";

const PROGRAMS = 50;
const INTERLEAVINGS_MAX = 2_000;
const MODELS: readonly MemoryModel[] = ["sc", "tso"];

describe.each(MODELS)("under %s", (model) => {
  test.each(Object.entries(FLAVOURS))("explorers agree on programs of kind %s", (_name, flavour) => {
    const totals = newTotals();
    const options = { model, runs: PROGRAMS, seed: 20_260, interleavingsMax: INTERLEAVINGS_MAX };
    expect(campaign(sizeFor(flavour, model), options, totals)).toBeNull();
    // An empty campaign would agree too.
    expect(totals.programs).toBe(PROGRAMS);
    expect(totals.graphs).toBeGreaterThan(PROGRAMS);
  });
});

/** Programs that once told the explorers apart, and why. */
const FORMER: readonly (readonly [string, string])[] = [
  ["a reader that becomes a writer still counts its own read lock", "rdlock m; rdunlock m || rdlock m; wrlock m"],
  ["a task halted by a dead object and one that read it in time are two states", "retire o; retire o || r0=o"],
  ["a compare-exchange beside another field of its granule", "r0=cas(u,r0,1); r0=v; r0=xadd(x,0) || r0=cas(u,0,0)"],
  [
    "a forwarded load behind a store that cannot drain before the load's task goes on",
    "x=2; spawn c0; r0=x; x=0; spawn c0 || c0: r0=cas(x,2,0)",
  ],
  ["a load and another field of its granule that its own task has stored", "v=0; r0=u || u=1"],
  ["an access that was delayed and depends on the life of its object too", "o=0; x=0; r0=x || o=0 || revive o"],
  [
    "stores to an object that drain after it was freed",
    "lock l; retire p; unlock l; o=0; r0=xadd(x,0); r0=x || p=0 || r0=p",
  ],
  ["an object freed while a store to it waits", "o=0; r0=xadd(o,0); r0=x; r0=x || retire o; r0=xadd(o,0)"],
  ["an access that only fails where it is met first", "retire o; r0=o; x=0 || r0=await o!=1 || o=0"],
  ["plain accesses of what the same task has just stored with a mark", "x=1; r0=*x; *x=2; mf; r1=x || y=1"],
  ["an object freed while somebody waits for a store to it", "r0=await o==0; lock l; revive o; r0=o || o=1; retire o"],
  ["a race with a store that another store of one's own hides", "y=1; y=1; r0=*y; r0=x; r0=x || r0=cas(y,r0,r0)"],
  ["a wait that the own buffer would answer", "retire o; lock l; revive o; r0=o; unlock l || o=1; r0=await o==0"],
  ["a store of more than fits, read back from the buffer", "r1=h; u=r1; r0=x; r0=u || v=1"],
  ["a program in which nothing happens", "r0=await x==1; spawn c0 || || c0: x=1"],
];

describe.each(MODELS)("under %s", (model) => {
  test.each(FORMER)("%s", (_why, text) => {
    expect(compareExplorers(parseTiny(text), model, 100_000).differences).toEqual([]);
  });
});

test.each([
  "x=1; r0=y || r1=await x!=0; if r1==1 { y=2 } else { mf }",
  "spawn c0; join c0 || x:=2 || c0: x=1; r0=x",
  "lock l; r0=cas(x,0,r1); unlock l || rdlock m; mf(0); rdunlock m; retire o; revive o; r2=choose(3)",
])("programs are read as they are written: %s", (text) => {
  const shown = showTiny(parseTiny(text));
  expect(showTiny(parseTiny(shown))).toBe(shown);
  expect(shown.replaceAll(" else {  }", "")).toBe(text);
});
