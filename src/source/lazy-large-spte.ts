/**
 * lazy-large-spte on a compiled kernel: the shadow MMU of a VM with nested paging (tdp_mmu=0) maps 512 frames by one entry when dirty logging begins, and does
 * not split it then (eager_page_split=0). The entry stays, read-only, until a write needs a small page.
 */
import { Cell, load, type Results, type Steps, type World } from "../engine/index.ts";
import { KVM_MEM_LOG_DIRTY_PAGES } from "../kvm/memslots.ts";
import { PAGE_SIZE, touch } from "../machine/index.ts";
import type { Copies } from "../oracle/dirty-log.ts";
import {
  DELIVERY,
  type Guest,
  NO_SELF_MAP,
  SELF_MAP_L2,
  SELF_MAP_LARGE,
  selfMapL1,
} from "../studies/self-map-guests.ts";
import { setMemoryRegion } from "./gpc-scene.ts";
import { type KernelScenario, type KernelStudy, kvmScenario } from "./kernel-study.ts";
import { hostPage, type KvmScene, type KvmSceneOptions } from "./kvm-scene.ts";
import { ends, type ShadowedCheck, shadowedScene } from "./shadowed-scene.ts";

const FRAMES = 512;
/** Frames that a scenario writes, and a migration copies. */
const WRITTEN = [0, 1];

const write0 = touch(0, "write");

// --- actors ----------------------------------------------------------------------------------------------------------

/** KVM_MEM_LOG_DIRTY_PAGES is switched on. */
function* beginLogging({ kernel, kvm }: KvmScene): Steps<void> {
  yield* setMemoryRegion(kernel, kvm, { pages: FRAMES, hva: hostPage(0), flags: KVM_MEM_LOG_DIRTY_PAGES });
  yield* kernel.call("rw_keep_bitmap", BigInt(kvm), 0);
}

/** A VMM that migrates: fetches the log, and copies the pages that it names. */
function* fetchAndCopy({ world, mm, kernel, kvm }: KvmScene): Steps<Copies> {
  const log = yield* kernel.call("rw_fetch_log", BigInt(kvm), 0);
  const copies: Record<number, number> = {};
  for (const n of WRITTEN) if (((log >>> n) & 1) !== 0) copies[n] = yield* load(wordOf(world, mm, n), `copy page ${n}`);
  return copies;
}

/** The first word of a page. */
function wordOf(world: World, mm: KvmScene["mm"], n: number): Cell {
  return new Cell<number>(world, (mm.frameAt(hostPage(n)) ?? 0) * PAGE_SIZE, 8, false);
}

// --- what must hold --------------------------------------------------------------------------------------------------

/** Every page has the contents of its copy, or is in the next log. The guest had written to the first one when logging began. */
function nothingIsLost({ world, mm, kernel }: KvmScene, results: Results): string | null {
  const copies: Copies = { 0: 1, 1: 0, ...(results["vmm"] as Copies) };
  const log = kernel.peek(kernel.peek(kernel.addressOf("rw_kept_bitmap"), 8), 4);
  for (const n of WRITTEN) {
    const written = wordOf(world, mm, n).peek();
    if (written !== copies[n] && ((log >>> n) & 1) === 0)
      return `page ${n} has ${written}, its copy ${copies[n]}, and it is in no log`;
  }
  return null;
}

const isDone = (_scene: KvmScene, results: Results): string | null =>
  results["vcpu0"] === "done" ? null : "a read faults, though the entry is there";

// --- scenarios -------------------------------------------------------------------------------------------------------

const SCENE: Omit<KvmSceneOptions, "guests" | "faultsMax"> = {
  ...{ frames: FRAMES, hugePage: true, tdpMmu: false, eagerPageSplit: false },
  warm: [[write0]],
  prepare: beginLogging,
};

/** A guest whose page tables are shadowed: its run must end. */
function selfMap(name: string, guest: Guest, because: string, check: ShadowedCheck): KernelScenario {
  return {
    ...{ name, because, property: "progress", models: ["sc"], strategy: "graph", expected: "holds" },
    program: (image, racing) => shadowedScene(image, racing, `lazy-large-spte ${name}`, guest, check),
  };
}

const IS_REPORTED = "a store to a table on the way to itself is not retried for ever";

export const LAZY_LARGE_SPTE: KernelStudy = {
  title: "May a large SPTE that has to be write-protected stay? On the kernel's own source",
  source: "LKML, 2012-11-05: KVM: MMU: lazily drop large spte",
  variant: "linux",
  scenarios: [
    kvmScenario("reads", "final", "the large SPTE is still there to be read through", {
      ...{ ...SCENE, guests: [[touch(0, "read"), touch(1, "read"), touch(9, "read")]], faultsMax: 0, check: isDone },
    }),
    kvmScenario("writes-alone", "final", "as with a VMM that fetches the log meanwhile", {
      ...{ ...SCENE, guests: [[write0, touch(1, "write")]], faultsMax: 4, check: nothingIsLost },
    }),
    kvmScenario(
      "two-writes",
      "final",
      "a large SPTE is left to the slow path, which maps 4K",
      {
        ...{ ...SCENE, guests: [[write0, touch(1, "write")]], faultsMax: 4, threads: { vmm: fetchAndCopy } },
        check: nothingIsLost,
      },
      { models: ["sc"] },
    ),
    kvmScenario(
      "one-write",
      "progress",
      "the large SPTE is replaced by a table",
      { ...SCENE, guests: [[write0]], faultsMax: Number.POSITIVE_INFINITY },
      { models: ["sc"], strategy: "graph" },
    ),
    selfMap("self-map", SELF_MAP_L2, IS_REPORTED, ends("internal-error", 3)),
    selfMap("seven-steps", SELF_MAP_LARGE, IS_REPORTED, ends("internal-error", 3)),
    selfMap("self-map-l1", selfMapL1(), "the last-level table becomes unsync", ends("done", 1)),
    selfMap("no-self-map", NO_SELF_MAP, "gfn 4 is unshadowed once, and the store retires", ends("done", 4)),
    selfMap("delivery", DELIVERY, "a table lies in the page, so it is mapped by 4K", ends("done", 4)),
  ],
};
