/** Interrupts, in every interleaving: who has waited for a CPU knows that it has left the guest since. */
import { expect, test } from "vitest";
import {
  assertThat,
  type Cell,
  cell,
  check,
  fence,
  load,
  program,
  type Steps,
  store,
  type Task,
} from "../engine/index.ts";
import {
  Interrupts,
  interrupt,
  interruptAndWait,
  interruptHandler,
  isInterrupted,
  maskInterrupts,
  unmaskInterrupts,
} from "./interrupts.ts";

interface Scene {
  readonly interrupts: Interrupts;
  readonly request: Cell;
  readonly revoked: Cell;
}

/** Enters the guest, which touches something, unless there is a request; twice. */
function* vcpu({ interrupts, request, revoked }: Scene): Steps<void> {
  for (let round = 0; round < 2; round++) {
    yield* maskInterrupts(interrupts, 0);
    if ((yield* load(request)) === 0 && !(yield* isInterrupted(interrupts, 0)))
      assertThat((yield* load(revoked)) === 0, "the guest touches what was revoked");
    yield* unmaskInterrupts(interrupts, 0);
  }
}

const programOf = (sender: (scene: Scene) => Steps<void>) =>
  program<Scene>({
    name: "interrupts",
    setup: (world) => ({
      interrupts: new Interrupts(world, 2),
      request: cell(world, "request"),
      revoked: cell(world, "revoked"),
    }),
    tasks: {
      vcpu,
      sender,
      irq: ({ interrupts }) => interruptHandler(interrupts, 0, interrupts.world.tasks[0] as Task),
    },
    daemons: ["irq"],
  });

/** Revokes something as a remote TLB flush does. */
function* flush({ interrupts, request, revoked }: Scene, waits: boolean): Steps<void> {
  yield* store(request, 1);
  yield* fence(interrupts.world);
  if (waits) yield* interruptAndWait(interrupts, 1, [0]);
  yield* store(revoked, 1);
}

test.each(["sc", "tso"] as const)(
  "%s: a CPU is stopped once it was waited for, also when it was kicked before",
  async (model) => {
    const kickAndFlush = function* (scene: Scene): Steps<void> {
      // Nobody waits for this one: its handler may be under way when the next is sent.
      yield* interrupt(scene.interrupts, 1, 0);
      yield* flush(scene, true);
    };
    for (const sender of [kickAndFlush, (scene: Scene) => flush(scene, true)]) {
      const { failures, complete } = await check(programOf(sender), { model });
      expect([failures, complete]).toEqual([[], true]);
    }
  },
);

test("without the wait it is not", async () => {
  const { failures } = await check(
    programOf((scene) => flush(scene, false)),
    { model: "sc" },
  );
  expect(failures.map(({ property }) => property)).toContain("assertion");
});
