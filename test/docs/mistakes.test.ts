/** Mistakes that are easily made in a study are told, and are never a verdict. */
import { cell, check, load, type Program, program, type Steps, store, type World } from "racewalk/engine";
import { expect, test } from "vitest";

type Cells = ReturnType<typeof makeCells>;
const makeCells = (world: World) => ({ x: cell(world, "x") });

function alone(body: (cells: Cells) => Steps<unknown>): Program {
  return program<Cells>({ name: "alone", setup: makeCells, tasks: { body } });
}

test("a yield without its star", async () => {
  const starless = alone(function* ({ x }) {
    yield* store(x, 1);
    return (yield load(x)) as unknown;
  });
  await expect(check(starless)).rejects.toThrow(
    "task body asks for a Load of x without yield*; write yield* before it",
  );
});

test("an operation without yield*, before another one", async () => {
  const lost = alone(function* ({ x }) {
    store(x, 1);
    return yield* load(x);
  });
  await expect(check(lost)).rejects.toThrow("task body asks for a Store of x without yield*");
});

test("an operation without yield* at the end", async () => {
  const lost = alone(function* ({ x }) {
    yield* load(x);
    store(x, 1);
  });
  await expect(check(lost)).rejects.toThrow("task body asks for a Store of x without yield*");
});
