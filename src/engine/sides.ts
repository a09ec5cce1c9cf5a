/** Who did what where: the sides of a failure that several tasks make together, in words. */
import { basename } from "node:path";
import type { Execution } from "./execution.ts";
import type { Side } from "./failure.ts";
import type { SourcePlace } from "./replay.ts";

/** Files whose functions are what modelled code is made of, not the code itself. */
const PRIMITIVES = /[\\/](locks|rcu|wait-queue|interrupts)\.[jt]s$/;

/** The places in modelled code, innermost first, without those in the primitives (a lock, a barrier) that it used. */
export function modelledPlaces(stack: readonly SourcePlace[]): readonly SourcePlace[] {
  return stack.filter((place) => !PRIMITIVES.test(place.file));
}

/** Where the `nth` operation of a lane was asked for, innermost first. */
export type StackOf = (lane: number, nth: number) => readonly SourcePlace[];

/** "one takes a, then b (nested() in discipline.test.ts:75, nested() in discipline.test.ts:76)" */
export function sideText({ world }: Execution, { lane, text, at }: Side, stackOf: StackOf): string {
  const places = at.flatMap((nth) => {
    const place = modelledPlaces(stackOf(lane, nth))[0];
    return place === undefined ? [] : [`${place.function}() in ${basename(place.file)}:${place.line}`];
  });
  const where = places.length === 0 ? "" : ` (${places.join(", ")})`;
  return `${world.tasks[lane]?.name ?? "?"} ${text}${where}`;
}
