/**
 * A study of large cells, for measuring: message passing and Dekker's entry without barriers, as often as SIZE says (7 when it is not set).
 *
 *     SIZE=6 npx racewalk check bench/long-runs/large.ts
 */
import { cell, program, study } from "racewalk";
import { load, type Program, store, cell as variable } from "racewalk/engine";

const SIZE = Number(process.env["SIZE"] ?? 7);

/** Writer: data, then flag, SIZE times. Reader: flag, then data. */
function messagePassing(): Program {
  return program({
    name: "mp",
    memory: { staticBytes: 16_384, arenaBytes: 4_096 },
    setup: (world) => ({ data: variable(world, "data"), flag: variable(world, "flag") }),
    tasks: {
      *writer({ data, flag }) {
        for (let i = 1; i <= SIZE; i++) {
          yield* store(data, i);
          yield* store(flag, i);
        }
      },
      *reader({ data, flag }) {
        let late = 0;
        for (let i = 0; i < SIZE; i++) {
          const seen = yield* load(flag);
          if ((yield* load(data)) > seen) late++;
        }
        return late;
      },
    },
  });
}

/** Two tasks write their own variable and read the other's; how often each found the other's last value is judged at the end. */
function storeBuffering(): Program {
  return program({
    name: "sb",
    memory: { staticBytes: 16_384, arenaBytes: 4_096 },
    setup: (world) => ({ x: variable(world, "x"), y: variable(world, "y") }),
    tasks: {
      *left({ x, y }) {
        let sum = 0;
        for (let i = 1; i <= SIZE - 2; i++) {
          yield* store(x, i);
          sum += yield* load(y);
        }
        return sum;
      },
      *right({ x, y }) {
        let sum = 0;
        for (let i = 1; i <= SIZE - 2; i++) {
          yield* store(y, i);
          sum += yield* load(x);
        }
        return sum;
      },
    },
    final: (_cells, { left, right }) =>
      Number(left) + Number(right) > 0 ? true : "neither saw a thing of the other, from beginning to end",
  });
}

export default study({
  id: "large",
  title: "How fast is a large cell explored, and does it survive?",
  source: "bench/long-runs",
  variants: { mp: "message passing", sb: "store buffering" },
  cells: [
    cell({ variant: "mp", property: "final", expected: "holds", program: messagePassing }),
    cell({ variant: "sb", property: "final", expected: "holds", program: storeBuffering }),
    cell({ variant: "sb", property: "final", expected: "fails", model: "tso", program: storeBuffering }),
  ],
});
