/** Random workloads are workloads, the same for the same seed, and the model runs each of them to its end. */
import { expect, test } from "vitest";
import { runWorkload } from "./model.ts";
import { randomWorkload } from "./random-workload.ts";
import { parseWorkload } from "./workload.ts";

test("the same seed gives the same workload, another seed another one", () => {
  expect(randomWorkload(7)).toEqual(randomWorkload(7));
  expect(randomWorkload(7)).not.toEqual(randomWorkload(8));
});

test.each(["v6.12", "v7.2"])("the model of %s runs them whole", (kernel) => {
  const done = new Set<string>();
  for (let seed = 0; seed < 25; seed++) {
    const workload = parseWorkload(`seed ${seed}`, randomWorkload(seed));
    const run = runWorkload({ workload, initial: null, kernel, recording: null });
    expect(run.notModelled).toEqual([]);
    expect(run.operations).toHaveLength(workload.ops.length);
    for (const operation of workload.ops) {
      done.add(operation.kind === "guest" ? operation.guest : operation.kind === "host" ? operation.host : "par");
    }
  }
  // Seeds differ enough that most kinds come up.
  expect(done.size).toBeGreaterThan(20);
});
