/**
 * bugs-gpc: races of gfn_to_pfn_cache that Linux once had. The designs of a thread on it are in gpc-refresh.
 *
 * Tasks: refresh refreshes the cache and then uses it, reader uses it, deactivate takes it out of use, munmap unmaps and frees its page.
 */
import { program, type Steps } from "../engine/index.ts";
import { kthread, munmap } from "../kernel/index.ts";
import { kvmGpcDeactivate } from "../kvm/gfn-to-pfn-cache.ts";
import { hva, PAGE_SIZE } from "../machine/index.ts";
import { type BugScenario, bugStudy } from "./bug-cells.ts";
import { GPC_HOST, makeScene, type OwnScene } from "./gpc-refresh.ts";

type TaskOf = (scene: OwnScene) => Steps<unknown>;

const ALL: Readonly<Record<"refresh" | "reader" | "deactivate" | "munmap", TaskOf>> = {
  *refresh(scene) {
    if (yield* scene.refresh()) yield* scene.use();
  },
  reader: (scene) => scene.use(),
  deactivate: ({ gpc }) => kvmGpcDeactivate(gpc),
  munmap: ({ mm }) => munmap(mm, GPC_HOST.cached, hva(GPC_HOST.cached + PAGE_SIZE)),
};

function scene(
  name: string,
  valid: boolean,
  tasks: readonly (keyof typeof ALL)[],
): Pick<BugScenario, "scenario" | "program"> {
  return {
    scenario: name,
    program: ({ undone }) =>
      program<OwnScene>({
        name: `bugs ${name}`,
        setup: (world) => makeScene(world, { design: "D0", undone, valid }),
        tasks: Object.fromEntries(tasks.map((task) => [task, (s: OwnScene) => kthread(s.world, ALL[task](s))])),
      }),
  };
}

const SCENARIOS: readonly BugScenario[] = [
  {
    ...scene("use", false, ["refresh", "munmap"]),
    property: "isolation",
    models: ["sc", "tso"],
    because: "the count is raised before the caches are cleared, and lowered after the sequence was moved",
    without: {
      "gpc-refresh-in-notifier-window": {
        because: "start() has been to the caches, and has not raised mmu_invalidate_in_progress yet",
      },
      "fault-retry-sample-order/b": {
        because: "between the two stores of end() the count is 0 and the sequence is the old one",
      },
      "fault-retry-sample-order/c": {
        because: "the old sequence is read, then all of end() runs, then a count of 0 is read",
      },
    },
  },
  {
    ...scene("reader", true, ["refresh", "reader", "munmap"]),
    property: "isolation",
    models: ["sc", "tso"],
    because: "while gpc->lock is dropped the cache is invalid",
    without: {
      "gpc-speculatively-valid": {
        because: "a second user finds the cache valid while khva is still that of the page which is gone",
      },
    },
  },
  {
    ...scene("deactivate", true, ["refresh", "deactivate", "munmap"]),
    property: "isolation",
    models: ["sc", "tso"],
    because: "a cache that is on no list is not used, and cannot become valid",
    without: {
      "gpc-refresh-while-inactive": {
        because: "the cache is made valid again when it is on no list, so that no invalidation finds it",
      },
    },
  },
];

export default bugStudy({
  id: "bugs-gpc",
  title: "Races of gfn_to_pfn_cache: found without their fixes, absent with them?",
  scenarios: SCENARIOS,
});
