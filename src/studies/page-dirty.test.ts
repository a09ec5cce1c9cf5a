/** When the host is told that a page was written: by 7.2 when it is mapped writable, by 6.12 when the entry that says so goes or changes. */
import { describe, expect, test } from "vitest";
import { check, type Program } from "../engine/index.ts";
import { invalidateRange, type Mm } from "../kernel/index.ts";
import { KVM_MEM_LOG_DIRTY_PAGES } from "../kvm/memslots.ts";
import type { KernelVersion } from "../kvm/variants.ts";
import type { Hva, Pfn } from "../machine/index.ts";
import { fetchAndCopy } from "./dirty-log.ts";
import { DATA_PAGE, OLD, shadowHostPage, shadowScenes, writePage } from "./shadow-guest-scene.ts";
import { hostPage, tdpScene } from "./tdp-scene.ts";

const isMarked = (mm: Mm, addr: Hva): boolean => mm.frames.isMarkedDirty(mm.frameAt(addr) as Pfn);

/** Runs a program that has one outcome. @returns whether the page was marked before, and after */
async function outcome(program: (note: (marked: boolean) => void) => Program): Promise<boolean[]> {
  const seen: boolean[] = [];
  const { verdict, executions, failures } = await check(
    program((marked) => seen.push(marked)),
    { model: "sc", strategy: "dpor" },
  );
  expect(verdict, failures[0]?.message).toBe("holds");
  expect(executions).toBe(1);
  return seen.slice(-2);
}

function shadowed(kernel: KernelVersion): Promise<boolean[]> {
  const at = shadowHostPage(OLD);
  return outcome((note) =>
    shadowScenes(
      {
        drop: {
          keepsDirty: true,
          guests: [{ warm: [writePage(DATA_PAGE, OLD)] }],
          threads: {
            *unmap({ mm }) {
              note(isMarked(mm, at));
              yield* invalidateRange(mm, at, shadowHostPage(OLD + 1));
            },
          },
          check: ({ mm }) => {
            note(isMarked(mm, at));
            return null;
          },
        },
      },
      { kernel },
    )("drop"),
  );
}

function nested(kernel: KernelVersion, change: "unmap" | "log"): Promise<boolean[]> {
  return outcome((note) =>
    tdpScene("dirty", {
      frames: 1,
      keepsDirty: true,
      flags: KVM_MEM_LOG_DIRTY_PAGES,
      variants: { kernel, gfnEnd: 1, paging: "ept", pml: true },
      guests: [[]],
      warm: [0],
      threads: {
        *change(scene) {
          note(isMarked(scene.mm, hostPage(0)));
          if (change === "unmap") yield* invalidateRange(scene.mm, hostPage(0), hostPage(1));
          else yield* fetchAndCopy(scene);
        },
      },
      check: ({ mm }) => {
        note(isMarked(mm, hostPage(0)));
        return null;
      },
    }),
  );
}

describe("6.12: when D is lost", () => {
  test("of an entry of the shadow MMU that is dropped", async () => {
    expect(await shadowed("6.12")).toEqual([false, true]);
  });
  test("of an entry of the TDP MMU that is zapped", async () => {
    expect(await nested("6.12", "unmap")).toEqual([false, true]);
  });
  test("of an entry that is logged anew", async () => {
    expect(await nested("6.12", "log")).toEqual([false, true]);
  });
});

describe("7.2: when the page is mapped", () => {
  test("by the shadow MMU", async () => {
    expect(await shadowed("7.2")).toEqual([true, true]);
  });
  test("by the TDP MMU", async () => {
    expect(await nested("7.2", "unmap")).toEqual([true, true]);
  });
});
