/** A driver's page in the guest: which references a fault takes on it, and what it makes of one that is not counted. */
import { describe, expect, test } from "vitest";
import { check } from "../engine/index.ts";
import type { KvmMemorySlot } from "../kvm/memslots.ts";
import { rmapEntries } from "../kvm/shadow/rmap.ts";
import { gfnToRmap } from "../kvm/shadow/slot-arch.ts";
import type { KernelVersion } from "../kvm/variants.ts";
import { gfn, type Pfn } from "../machine/index.ts";
import {
  DATA_PAGE,
  OLD,
  readFault,
  readPage,
  type ShadowScene,
  shadowHostPage,
  shadowScenes,
} from "./shadow-guest-scene.ts";

function mappings({ world, vm }: ShadowScene): number {
  const rmap = gfnToRmap(world, vm.kvm.memslots.byId(0) as KvmMemorySlot, gfn(OLD), 1);
  return rmapEntries(world, rmap.peek()).length;
}

/** One fault on the page. @returns how often it is mapped then, and its count of references */
async function afterFault(kernel: KernelVersion, references: number): Promise<{ mapped: number; references: number }> {
  const seen = { mapped: -1, references: -1 };
  const page = ({ mm }: Pick<ShadowScene, "mm">) => mm.frames.refcountOf(mm.frameAt(shadowHostPage(OLD)) as Pfn);
  const scenes = shadowScenes(
    {
      fault: {
        pfnMapped: [OLD],
        guests: [{ warm: [readPage(0)], handles: readFault(DATA_PAGE) }],
        *prepare(scene) {
          page(scene).value = references;
        },
        check: (scene) => {
          Object.assign(seen, { mapped: mappings(scene), references: page(scene).peek() });
          return null;
        },
      },
    },
    { kernel },
  );
  const { verdict, failures } = await check(scenes("fault"), { model: "sc", strategy: "dpor" });
  expect(verdict, failures[0]?.message).toBe("holds");
  return seen;
}

describe.each<KernelVersion>(["6.12", "7.2"])("%s", (kernel) => {
  test("a counted page is mapped, and no reference is left", async () => {
    expect(await afterFault(kernel, 1)).toEqual({ mapped: 1, references: 1 });
  });
  test("a page that is not counted stays so", async () => {
    expect(await afterFault(kernel, 0)).toEqual({ mapped: kernel === "7.2" ? 1 : 0, references: 0 });
  });
});
