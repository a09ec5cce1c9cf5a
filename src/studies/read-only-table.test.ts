/** A guest's table in memory that the VMM may only read: its A bits cannot be set, so whoever walks it has a page fault, and KVM does not try for ever. */
import { expect, test } from "vitest";
import { check } from "../engine/index.ts";
import { mprotect, PROT_READ } from "../kernel/index.ts";
import { DATA_PAGE, NEW, readFault, readPage, shadowHostPage, shadowScenes, TABLE } from "./shadow-guest-scene.ts";

const PAGE = DATA_PAGE + 1;
/** P, W and D. */
const NOT_ACCESSED = 0x43;

test("the fault is the guest's", async () => {
  const scenes = shadowScenes({
    walk: {
      entries: [[TABLE, PAGE, NEW, NOT_ACCESSED]],
      guests: [{ warm: [readPage(DATA_PAGE)], handles: readFault(PAGE) }],
      *prepare({ mm }) {
        yield* mprotect(mm, shadowHostPage(TABLE), shadowHostPage(TABLE + 1), PROT_READ);
      },
      check: ({ vm }) => (vm.vcpus[0]?.exception?.event.errorCode === 0 ? null : "the guest has no page fault"),
    },
  });
  const { verdict, complete, failures } = await check(scenes("walk"), { model: "sc", strategy: "dpor" });
  expect(verdict, failures[0]?.message).toBe("holds");
  expect(complete).toBe(true);
});
