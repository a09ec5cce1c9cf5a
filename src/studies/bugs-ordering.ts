/**
 * bugs-ordering: what must be seen in order, by CPUs that keep their stores back for a while.
 *
 *     entry     a vCPU's mode before it reads its requests and the tables; a request before the mode is read
 *     walk      a lockless walker's mode before it reads the first entry; who frees waits for the interrupt
 *     unsync    the mark of a page before the SPTE through which the guest can write its table
 *
 * Tasks: vcpu0 (and vcpu1) run guests, munmap takes a page away, zap frees a shadow page; irq0 and irq1 are interrupt handlers.
 */
import { type Program, program, runSequentially, type Steps, type Task } from "../engine/index.ts";
import { kthread, munmap } from "../kernel/index.ts";
import { kvmGetDirtyLog } from "../kvm/dirty-log.ts";
import { KVM_MEM_LOG_DIRTY_PAGES } from "../kvm/memslots.ts";
import type { KvmVariants } from "../kvm/variants.ts";
import { kvmArchVcpuIoctlRun } from "../kvm/vcpu.ts";
import { interruptHandler, touch } from "../machine/index.ts";
import { type BugScenario, bugStudy } from "./bug-cells.ts";
import { makeShadowScene, type ShadowScene, zapPagesOf } from "./shadow-scene.ts";
import { hostPage, tdpScene } from "./tdp-scene.ts";

type Undone = Pick<KvmVariants, "undone">;

/** The page is mapped; the guest reads it twice while it is unmapped. */
function entry({ undone }: Undone): Program {
  return tdpScene("bugs entry", {
    frames: 2,
    guests: [[touch(0, "read"), touch(0, "read")]],
    warm: [0],
    variants: { undone, gfnEnd: 2 },
    threads: { munmap: ({ mm }) => munmap(mm, hostPage(0), hostPage(1)) },
  });
}

function* writeOnce({ vm }: ShadowScene): Steps<string> {
  const vcpu = vm.vcpus[0] as (typeof vm.vcpus)[number];
  vcpu.reset();
  return yield* kvmArchVcpuIoctlRun(vcpu, [touch(0, "write")]);
}

function makeLoggedScene(world: ShadowScene["world"], { undone }: Undone): ShadowScene {
  const scene = makeShadowScene(world, {
    variants: { faultsMax: 1, undone },
    frames: [0, 512],
    mapped: [0],
    flags: KVM_MEM_LOG_DIRTY_PAGES,
    vcpu: 0,
    cpus: 2,
  });
  runSequentially(world, 0, "set-up", () => kvmGetDirtyLog(scene.vm, 0));
  return scene;
}

/** The page's entry lost W to dirty logging; a fast page fault walks to it while its shadow page is freed. */
function walk(undone: Undone): Program {
  return program<ShadowScene>({
    name: "bugs walk",
    setup: (world) => makeLoggedScene(world, undone),
    tasks: {
      vcpu0: (scene) => kthread(scene.world, writeOnce(scene)),
      zap: (scene) => kthread(scene.world, zapPagesOf(scene, [0])),
      irq0: ({ vm, world }) => interruptHandler(vm.interrupts, 0, world.tasks[0] as Task),
    },
    daemons: ["irq0"],
  });
}

const SCENARIOS: readonly BugScenario[] = [
  {
    scenario: "entry",
    program: entry,
    property: "isolation",
    models: ["sc", "tso"],
    because: "of the mode and the request, one side sees the other's",
    without: {
      "enter-guest-mode-without-full-fence/vcpu": {
        fails: ["tso"],
        because: "the mode waits in the vCPU's store buffer while it walks the tables; nobody interrupts it",
        otherwise: "stores are seen at once: the barrier is all that was missing",
      },
      "enter-guest-mode-without-full-fence/requester": {
        fails: ["tso"],
        because: "the mode is read while the request waits in the store buffer; the vCPU enters without a look at it",
        otherwise: "stores are seen at once: the barrier is all that was missing",
      },
    },
  },
  {
    scenario: "walk",
    program: walk,
    property: "use-after-free",
    models: ["sc", "tso"],
    because: "the page is freed when the interrupt was taken, that is when the walk is over",
    without: {
      "lockless-walk-vs-free/fence": {
        fails: ["tso"],
        because: "the walker reads entries while its mode waits in the store buffer; nobody interrupts it",
        otherwise: "stores are seen at once: the barrier is all that was missing",
      },
      "lockless-walk-vs-free/mode": { because: "who frees sees nobody that reads, and waits for nobody" },
      "lockless-walk-vs-free/wait": { because: "the interrupt is on its way while the page is freed" },
    },
  },
];

export default bugStudy({
  id: "bugs-ordering",
  title: "What must be seen in order: found without its barriers, absent with them?",
  scenarios: SCENARIOS,
});
