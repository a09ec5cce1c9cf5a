/** Locked instructions that KVM carries out for the guest are locked: what another vCPU adds meanwhile is not lost. */
import { expect, test } from "vitest";
import { Cell, check } from "../engine/index.ts";
import { PAGE_SIZE, type Pfn } from "../machine/index.ts";
import {
  addToEntry,
  DIRECTORY,
  DIRECTORY_PAGE,
  emulates,
  type ShadowScene,
  shadowHostPage,
  shadowScenes,
  TABLE,
  touchAll,
} from "./shadow-guest-scene.ts";

const SOFTWARE_BIT = 0x200;
const BEFORE = TABLE * PAGE_SIZE + 0x63;

function directoryWord({ world, mm }: ShadowScene): number {
  const pfn = mm.frameAt(shadowHostPage(DIRECTORY)) as Pfn;
  return new Cell<number>(world, pfn * PAGE_SIZE, 8, false).peek();
}

/** Explores two vCPUs that add to one entry, each once. @returns how many additions were carried out, for each outcome */
async function outcomes(): Promise<number[]> {
  const add = { warm: touchAll, handles: emulates(addToEntry(DIRECTORY_PAGE, SOFTWARE_BIT)) } as const;
  const seen = new Set<number>();
  const scenes = shadowScenes({
    add: {
      guests: [add, add],
      check: (scene) => {
        const carriedOut = scene.vm.vcpus.reduce((sum, { guest }) => sum + guest.next, 0);
        seen.add(carriedOut);
        const wanted = BEFORE + carriedOut * SOFTWARE_BIT;
        const found = directoryWord(scene);
        return found === wanted ? null : `the entry is ${found}, and was to be ${wanted}`;
      },
    },
  });
  const { verdict, complete, failures } = await check(scenes("add"), { model: "sc", strategy: "dpor" });
  expect(verdict, failures[0]?.message).toBe("holds");
  expect(complete).toBe(true);
  return [...seen].sort((a, b) => a - b);
}

test("an addition that finds the word changed is left for the guest to make again", async () => {
  expect(await outcomes()).toEqual([1, 2]);
});
