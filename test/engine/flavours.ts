/** The kinds of tiny program that are drawn, by name, with sizes that brute force can enumerate. */
import type { MemoryModel } from "../../src/engine/index.ts";
import type { Flavour } from "./tiny-arbitrary.ts";

const PLAIN: Flavour = {
  steps: 10,
  tasksMax: 4,
  locks: false,
  sharedLocks: false,
  spawns: false,
  lifetimes: false,
  waits: false,
  plain: false,
  halves: false,
};

/** Loads, stores and locked instructions; then one more thing at a time; then all together. */
export const FLAVOURS: Readonly<Record<string, Flavour>> = {
  accesses: PLAIN,
  waits: { ...PLAIN, waits: true },
  locks: { ...PLAIN, steps: 11, locks: true },
  rwlocks: { ...PLAIN, steps: 11, sharedLocks: true },
  halves: { ...PLAIN, halves: true },
  spawns: { ...PLAIN, tasksMax: 2, spawns: true },
  lifetimes: { ...PLAIN, steps: 9, lifetimes: true },
  freeing: { ...PLAIN, lifetimes: true, locks: true },
  plain: { ...PLAIN, tasksMax: 3, plain: true, locks: true },
  everything: { ...PLAIN, tasksMax: 3, waits: true, locks: true, sharedLocks: true, spawns: true },
};

/** Under TSO most stores are two steps, so programs are smaller. */
export function sizeFor(flavour: Flavour, model: MemoryModel): Flavour {
  return model === "sc" ? flavour : { ...flavour, steps: flavour.steps - 2 };
}
