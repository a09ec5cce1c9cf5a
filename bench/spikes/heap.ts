/**
 * Spike: what it costs to write shared memory and take it back.
 *
 * Each form makes 50 writes to 64 variables, as an execution of a study does, and then undoes them. "heap" is src/engine/heap.ts; "objects"
 * keeps each variable as an object with a journal of (object, old value); "copies" restores a whole memory of 64 KiB, the size of a
 * small scenario. The decision taken from it is docs/decisions/0003-heap.md. Run: npm run bench:spikes
 */
import { Heap } from "../../src/engine/heap.ts";

const WRITES = 50;
const VARIABLES = 64;
const ROUNDS = 20_000;

interface Variable {
  value: number;
}

function heap(): () => void {
  const memory = new Heap(1 << 20);
  memory.startJournal();
  return () => {
    const mark = memory.mark;
    for (let i = 0; i < WRITES; i++) memory.write(4096 + 8 * (i % VARIABLES), 8, i, 0);
    memory.undoTo(mark);
  };
}

function objects(): () => void {
  const variables: Variable[] = Array.from({ length: VARIABLES }, () => ({ value: 0 }));
  const journal: { variable: Variable; old: number }[] = [];
  return () => {
    for (let i = 0; i < WRITES; i++) {
      const variable = variables[i % VARIABLES] as Variable;
      journal.push({ variable, old: variable.value });
      variable.value = i;
    }
    for (let entry = journal.pop(); entry !== undefined; entry = journal.pop()) entry.variable.value = entry.old;
  };
}

function copies(): () => void {
  const memory = new Uint32Array((64 * 1024) / 4);
  const initial = memory.slice();
  return () => {
    for (let i = 0; i < WRITES; i++) memory[2 * (i % VARIABLES)] = i;
    memory.set(initial);
  };
}

function time(name: string, body: () => void): void {
  for (let i = 0; i < ROUNDS; i++) body();
  const samples: number[] = [];
  for (let sample = 0; sample < 7; sample++) {
    const start = process.hrtime.bigint();
    for (let i = 0; i < ROUNDS; i++) body();
    samples.push(Number(process.hrtime.bigint() - start) / ROUNDS / WRITES);
  }
  samples.sort((a, b) => a - b);
  console.log(`${name.padEnd(44)} ${(samples[3] as number).toFixed(1).padStart(7)} ns per write, undo included`);
}

time("one heap, journal of words", heap());
time("objects, journal of objects", objects());
time("one array, restored by copying 64 KiB", copies());
