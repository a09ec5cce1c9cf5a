/**
 * Waits, stores and locked operations on an object whose life ends and begins anew meanwhile: nothing is left out, nothing done twice, nothing given
 * up. Drawn densely, all on one object, because what goes wrong here takes several tasks in each other's way.
 */
import { describe, expect, test } from "vitest";
import { Random } from "../../src/engine/index.ts";
import { compareExplorers } from "./comparison.ts";
import { MODELS } from "./planted/planted.ts";
import { parseTiny } from "./tiny.ts";

const STATEMENTS = [
  "o=1",
  "o=0",
  "r0=await o==1",
  "r0=await o==0",
  "r0=await o!=0",
  "retire o",
  "revive o",
  "r1=o",
  "x=1",
  "r1=await x==1",
  "r1=xadd(o,1)",
  "r1=cas(o,0,1)",
  "mf",
] as const;

const PROGRAMS = 250;
const INTERLEAVINGS_MAX = 1_500;

function draw(random: Random): string {
  const tasks: string[][] = Array.from({ length: 2 + (random.next() % 2) }, () => []);
  const statements = 4 + (random.next() % 4);
  for (let k = 0; k < statements; k++) {
    const task = tasks[random.next() % tasks.length] as string[];
    task.push(STATEMENTS[random.next() % STATEMENTS.length] as string);
  }
  return tasks.map((task) => (task.length === 0 ? "r0=x" : task.join("; "))).join(" || ");
}

describe.each(MODELS)("under %s", (model) => {
  test("random programs: dpor finds what brute force finds, each graph once, and gives up nothing", () => {
    const random = new Random(11);
    let compared = 0;
    for (let n = 0; n < PROGRAMS; n++) {
      const text = draw(random);
      const { differences, blocked, interleavings } = compareExplorers(parseTiny(text), model, INTERLEAVINGS_MAX);
      expect(differences, text).toEqual([]);
      expect(blocked, text).toBe(0);
      if (interleavings !== null) compared++;
    }
    expect(compared).toBeGreaterThan(PROGRAMS * 0.8);
  });

  test.each([
    // The end of a life and a store on its way, both before a wait: the store that drains may keep the wait from going on.
    "r0=await o==0; x=1 || o=1; retire o",
    "r0=await o==0 || revive o; x=1 || revive o; o=1",
    // What comes after a store comes after the loads that its buffer answered.
    "retire o || r1=xadd(o,1) || o=1; r0=o",
    "o=1; retire o || r1=xadd(o,1) || r0=await o==1; o=1; r0=await o!=0; revive o",
    "revive o || r1=o; r1=cas(o,0,1) || o=1; r1=o",
  ])("%s", (text) => {
    const { differences, blocked } = compareExplorers(parseTiny(text), model, 100_000);
    expect(differences).toEqual([]);
    expect(blocked).toBe(0);
  });

  test.each([
    [
      "waits for another reader",
      "wrlock m; wrunlock m || rdlock m; rdunlock m; x=1 || rdlock m; r1=await x==1; rdunlock m",
    ],
    ["fails", "wrlock m; wrunlock m || rdlock m; rdunlock m || retire o || rdlock m; r1=o; rdunlock m"],
  ])("a reader that %s with its lock held, with a writer waiting, costs an execution given up", (_, text) => {
    const { differences, blocked } = compareExplorers(parseTiny(text), model, 100_000);
    expect(differences).toEqual([]);
    expect(blocked).toBe(1);
  });
});
