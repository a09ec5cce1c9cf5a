/**
 * aging: is every access reported, and nothing else disturbed, when the host asks which pages were used?
 *
 * The question behind lockless aging: with A/D bits one bit is cleared; without them rights are taken away and given back by page faults. 6.12 holds
 * mmu_lock for that, 7.2 does not, and races against whoever zaps the page or gives its rights back.
 *
 * Tasks: vcpu0 touches page 0; `ager` asks the host's way (clear_young or clear_flush_young), leaves a mark in the page, waits for vcpu0 to end, and
 * asks again; `munmap` takes the page away; irq0 is vcpu0's CPU's interrupt handler.
 */
import { Cell, join, type MemoryModel, type Results, type Steps, store, type Task } from "../engine/index.ts";
import { munmap } from "../kernel/index.ts";
import { kvmGetDirtyLog } from "../kvm/dirty-log.ts";
import { KVM_MEM_LOG_DIRTY_PAGES } from "../kvm/memslots.ts";
import type { KvmVariants } from "../kvm/variants.ts";
import { PAGE_SIZE, touch } from "../machine/index.ts";
import { type AgeReports, ageProblem } from "../oracle/age.ts";
import { dirtyLogProblem } from "../oracle/dirty-log.ts";
import { tdpMappingsProblem } from "../oracle/tdp-mappings.ts";
import { cell, type Expected, type StudyCell, study } from "./study.ts";
import { hostPage, type TdpScene, type TdpSceneOptions, tdpScene } from "./tdp-scene.ts";

/** The mark that the ager leaves in page 0: an access that reads it came after the clear. */
const MARK = 7;

export function* clearYoung({ mm }: TdpScene, flush: boolean): Steps<boolean> {
  let young = false;
  for (const ops of mm.notifiers) {
    const [start, end] = [hostPage(0), hostPage(1)];
    if (yield* flush ? ops.clearFlushYoung(start, end) : ops.clearYoung(start, end)) young = true;
  }
  return young;
}

function* testYoung({ mm }: TdpScene): Steps<boolean> {
  let young = false;
  for (const ops of mm.notifiers) if (yield* ops.testYoung(hostPage(0))) young = true;
  return young;
}

/** @param frame page 0's */
function* age(scene: TdpScene, flush: boolean): Steps<AgeReports> {
  const { world, mm } = scene;
  const frame = mm.frameAt(hostPage(0)) ?? 0;
  const cleared = yield* clearYoung(scene, flush);
  yield* store(new Cell<number>(world, frame * PAGE_SIZE, 8, false), MARK, "mark page 0");
  yield* join(world, world.tasks[0] as Task);
  return { cleared, young: yield* testYoung(scene) };
}

/** Page 0 was used during set-up, and aged then. */
function* prepareOld(scene: TdpScene): Steps<void> {
  yield* clearYoung(scene, false);
}

function checkAge(scene: TdpScene, results: Results): string | null {
  const reports = results["ager"] as AgeReports;
  return ageProblem(results["vcpu0"] === "done", reports) ?? tdpMappingsProblem(scene.vm.tdp);
}

/** An access that reads the mark was made after the clear had returned, so the clear cannot have told of it. */
function checkLateAccess(scene: TdpScene, results: Results): string | null {
  const reports = results["ager"] as AgeReports;
  const late = results["vcpu0"] === "done" && scene.vm.vcpus[0]?.guest.lastRead.lo === MARK;
  return ageProblem(late, { ...reports, cleared: false }) ?? checkAge(scene, results);
}

/** The page was protected during set-up by fetching the log that named it; the guest's write must be logged again. */
function checkLogged(scene: TdpScene, results: Results): string | null {
  const slot = scene.vm.kvm.memslots.byId(0);
  const wrote = results["vcpu0"] === "done";
  const lost = slot === null || !wrote ? null : dirtyLogProblem(scene.vm, slot, { 0: NEVER_WRITTEN });
  return lost ?? tdpMappingsProblem(scene.vm.tdp);
}

const NEVER_WRITTEN = 0;

const read0 = touch(0, "read");
const write0 = touch(0, "write");
const PAGES = { frames: 2, warm: [0] } as const;

const SCENES: Readonly<Record<string, TdpSceneOptions>> = {
  access: {
    ...PAGES,
    guests: [[read0]],
    prepare: prepareOld,
    threads: { ager: (scene) => age(scene, true) },
    check: checkAge,
  },
  cached: {
    ...PAGES,
    guests: [[read0, read0]],
    threads: { ager: (scene) => age(scene, true) },
    check: checkLateAccess,
  },
  zap: {
    ...PAGES,
    guests: [[read0]],
    threads: {
      ager: (scene) => clearYoung(scene, false),
      munmap: ({ mm }) => munmap(mm, hostPage(0), hostPage(1)),
    },
    check: ({ vm }) => tdpMappingsProblem(vm.tdp),
  },
  "fast-fault": {
    ...PAGES,
    flags: KVM_MEM_LOG_DIRTY_PAGES,
    guests: [[write0]],
    prepare: ({ vm }) => kvmGetDirtyLog(vm, 0),
    threads: { ager: (scene) => clearYoung(scene, false) },
    check: checkLogged,
  },
  "fetch-log": {
    ...PAGES,
    flags: KVM_MEM_LOG_DIRTY_PAGES,
    guests: [[read0]],
    threads: { ager: (scene) => clearYoung(scene, false), vmm: ({ vm }) => kvmGetDirtyLog(vm, 0) },
    check: ({ vm }) => tdpMappingsProblem(vm.tdp),
  },
};

const VARIANTS: Readonly<Record<string, Partial<KvmVariants>>> = {
  "7.2": {},
  "7.2-no-ad": { paging: "ept-no-ad" },
  "6.12": { kernel: "6.12" },
  "6.12-no-ad": { kernel: "6.12", paging: "ept-no-ad" },
};

function cells(
  scenario: string,
  property: string,
  because: string,
  options: {
    readonly variants?: readonly string[];
    readonly models?: readonly MemoryModel[];
    readonly expected?: Expected;
  } = {},
): StudyCell[] {
  const { variants = Object.keys(VARIANTS), models = ["sc", "tso"], expected = "holds" } = options;
  return variants.flatMap((variant) =>
    models.map((model) =>
      cell({
        variant,
        scenario,
        property,
        model,
        expected,
        because,
        program: () =>
          tdpScene(scenario, { ...(SCENES[scenario] as TdpSceneOptions), variants: { ...VARIANTS[variant] } }),
      }),
    ),
  );
}

export default study({
  id: "aging",
  title: "Is every access reported when pages are aged, under mmu_lock or without?",
  source:
    "kvm_age_gfn() and kvm_test_age_gfn() of Linux 6.12 and 7.2; https://lore.kernel.org/kvm/20250204004038.1680123-1-jthoughton@google.com/",
  variants: {
    "7.2": "Linux 7.2: no mmu_lock, one compare-exchange, no TLB flush; A/D bits",
    "7.2-no-ad": "the same without A/D bits: rights are taken away, and the fault sets a software A bit",
    "6.12": "Linux 6.12: mmu_lock held for write, clear_flush_young flushes; A/D bits",
    "6.12-no-ad": "the same without A/D bits",
  },
  cells: [
    ...cells("access", "final", "who walks the tables after the clear sets A, or faults and sets it"),
    ...cells("cached", "final", "the TLB still has the page, so the access sets no A bit: a documented exception", {
      variants: ["7.2", "7.2-no-ad"],
      models: ["sc"],
      expected: "fails",
    }),
    ...cells("cached", "final", "clear_flush_young flushes before it returns", {
      variants: ["6.12", "6.12-no-ad"],
      models: ["sc"],
    }),
    ...cells("zap", "isolation", "aging that loses against the zap changes nothing"),
    ...cells("fast-fault", "final", "aging takes W away; the fault that gives it back marks the page"),
    ...cells("fetch-log", "final", "the log's write protection and aging each keep what the other has changed"),
  ],
});
