/**
 * May a user of a gfn_to_pfn_cache drop gpc->lock between the check and the use?
 *
 * Run it: racewalk check examples/use-after-unlock.ts
 */
import {
  Cell,
  cell,
  GfnToPfnCache,
  gfn,
  gpa,
  hva,
  Kernel,
  Kvm,
  kthread,
  kvmGpcActivate,
  kvmGpcCheck,
  LINUX_7_2,
  Mm,
  mmuNotifierOps,
  munmap,
  PAGE_SIZE,
  PageFrames,
  PROT_READ,
  PROT_WRITE,
  type Program,
  program,
  readLock,
  readUnlock,
  runSequentially,
  type Steps,
  store,
  study,
  type World,
} from "racewalk";

const PAGE = hva(0x10000000);
const NEXT = hva(PAGE + PAGE_SIZE);

/** A process with one page, a VM that has it as memslot 0, and a valid cache of it. */
function makeScene(world: World) {
  const kernel = new Kernel(world);
  const mm = new Mm(world, new PageFrames(world), PAGE, 8);
  mm.addVma(PAGE, NEXT, PROT_READ | PROT_WRITE);
  mm.populate(PAGE, "the page");
  const kvm = new Kvm(world, kernel, mm, LINUX_7_2);
  mm.notifiers.push(mmuNotifierOps(kvm));
  kvm.memslots.addDuringSetup({ id: 0, baseGfn: gfn(0), npages: 1, userspaceAddr: PAGE, flags: 0 });
  const gpc = new GfnToPfnCache(kvm);
  runSequentially(world, 0, "set-up", () => kvmGpcActivate(gpc, { gpa: gpa(0) }));
  return { world, mm, gpc };
}

type Scene = ReturnType<typeof makeScene>;

function* use({ world, gpc }: Scene, keepsLock: boolean): Steps<void> {
  yield* readLock(gpc.lock);
  const valid = yield* kvmGpcCheck(gpc);
  const khva = new Cell<number>(world, gpc.fields.khva.value, 8, false);
  if (!keepsLock) yield* readUnlock(gpc.lock);
  if (valid) yield* store(khva, 1, "*khva = 1");
  if (keepsLock) yield* readUnlock(gpc.lock);
}

function useAndUnmap(keepsLock: boolean): Program {
  return program<Scene>({
    name: "use-after-unlock",
    setup: makeScene,
    tasks: {
      user: (scene) => kthread(scene.world, use(scene, keepsLock)),
      munmap: ({ world, mm }) => kthread(world, munmap(mm, PAGE, NEXT)),
    },
  });
}

const property = "isolation";

export default study({
  id: "use-after-unlock",
  title: "May a user of a gfn_to_pfn_cache drop gpc->lock between the check and the use?",
  source: "an example",
  variants: { held: "gpc->lock is held from the check to the use", dropped: "it is dropped after the check" },
  cells: [
    cell({ variant: "held", property, expected: "holds", program: () => useAndUnmap(true) }),
    cell({ variant: "held", property, model: "tso", expected: "holds", program: () => useAndUnmap(true) }),
    cell({
      variant: "dropped",
      property,
      expected: "fails",
      because: "start() takes gpc->lock to clear `valid`, and returns before the use",
      program: () => useAndUnmap(false),
    }),
  ],
});
