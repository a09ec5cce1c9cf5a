/**
 * May a flag be set before the data that it announces?
 *
 * Run it: racewalk check examples/my-first-study.ts
 */
import { assertThat, awaitUntil, cell, type Program, program, store, study, variable } from "racewalk";

function message(flagFirst: boolean): Program {
  return program({
    name: "message",
    setup: (world) => ({ data: variable(world, "data"), ready: variable(world, "ready") }),
    tasks: {
      *writer({ data, ready }) {
        if (flagFirst) yield* store(ready, 1);
        data.value = 42; // a plain write, as data = 42 is in C
        if (!flagFirst) yield* store(ready, 1);
      },
      *reader({ data, ready }) {
        yield* awaitUntil(ready, (value) => value === 1);
        assertThat(data.value === 42, "the reader sees no data");
      },
    },
  });
}

const property = "data-race";

export default study({
  id: "my-first-study",
  title: "May a flag be set before the data that it announces?",
  source: "every second patch",
  variants: { "data-first": "write the data, then set the flag", "flag-first": "set the flag, then write the data" },
  cells: [
    cell({ variant: "data-first", property, expected: "holds", program: () => message(false) }),
    cell({ variant: "data-first", property, model: "tso", expected: "holds", program: () => message(false) }),
    cell({ variant: "flag-first", property, expected: "fails", program: () => message(true) }),
  ],
});
