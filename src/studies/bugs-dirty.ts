/**
 * bugs-dirty: writes of the guest that got lost between an entry and whoever asks what was written.
 *
 * Tasks: vcpu0 writes a page, zap takes its entry away; irq0 is the CPU's interrupt handler.
 */
import { MMU_NOTIFY_CLEAR, notifyStart } from "../kernel/index.ts";
import { KVM_MEM_LOG_DIRTY_PAGES } from "../kvm/memslots.ts";
import { dirtyReportProblem } from "../oracle/dirty-report.ts";
import { type BugScenario, bugStudy, onTdp } from "./bug-cells.ts";
import { fetchAndCopy, write } from "./dirty-log.ts";
import { hostPage } from "./tdp-scene.ts";

const FRAMES = 2;

const SCENARIOS: readonly BugScenario[] = [
  {
    // The invalidation does not end, so a write that is made was made through the entry that it zaps.
    ...onTdp("zap", {
      frames: FRAMES,
      flags: KVM_MEM_LOG_DIRTY_PAGES,
      variants: { gfnEnd: FRAMES, paging: "ept", pml: true },
      guests: [[write(0, 2)]],
      warm: [0],
      prepare: fetchAndCopy,
      threads: {
        zap: ({ mm }) => notifyStart(mm, { start: hostPage(0), end: hostPage(1), event: MMU_NOTIFY_CLEAR }),
      },
      check: ({ vm }, { vcpu0 }) => (vcpu0 === "done" ? dirtyReportProblem(vm.tdp, 0) : null),
    }),
    property: "final",
    models: ["sc", "tso"],
    because: "the entry is exchanged: what the guest did to it until then is in the value that comes out",
    without: {
      "tdp-plain-write-loses-dirty": {
        because: "the CPU sets D between the zap's reading of the entry and its store",
      },
    },
  },
];

export default bugStudy({
  id: "bugs-dirty",
  title: "Writes that nobody was told of: found without the fixes, absent with them?",
  scenarios: SCENARIOS,
});
