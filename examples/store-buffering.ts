/**
 * A litmus test: can two CPUs both miss the other's store?
 *
 * Run it in a clone: npx node examples/store-buffering.ts
 */
import { cell, check, fence, load, type MemoryModel, type Program, program, store } from "racewalk/engine";

function storeBuffering(barriers: boolean, outcomes: Set<string>): Program {
  return program({
    name: "store-buffering",
    setup: (world) => ({ world, x: cell(world, "x"), y: cell(world, "y") }),
    tasks: {
      *cpu0({ world, x, y }) {
        yield* store(x, 1);
        if (barriers) yield* fence(world);
        return yield* load(y);
      },
      *cpu1({ world, x, y }) {
        yield* store(y, 1);
        if (barriers) yield* fence(world);
        return yield* load(x);
      },
    },
    // Asked at the end of each execution: here it only collects what can come out.
    final: (_, got) => outcomes.add(`${Number(got["cpu0"])}${Number(got["cpu1"])}`) !== null,
  });
}

async function show(name: string, barriers: boolean, model: MemoryModel): Promise<void> {
  const outcomes = new Set<string>();
  const { executions } = await check(storeBuffering(barriers, outcomes), { model });
  console.log(`${name}: ${executions} executions, r0 r1 = ${[...outcomes].sort().join(" ")}`);
}

await show("SC", false, "sc");
await show("TSO", false, "tso");
await show("TSO with smp_mb()", true, "tso");
