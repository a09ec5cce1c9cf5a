/**
 * host-mm: the host takes a page away, replaces it or shares it, while a guest uses it. Does the guest's mapping follow?
 *
 * What the host does to its own page tables reaches the guest by way of the MMU notifiers and of faults that retry. At the end every entry of the
 * TDP MMU must map the host's page, and be writable only where the host's entry is; no touch may reach a page that was taken away; and what
 * was shared must not change under the other who has it.
 *
 *     fork        the parent's pages are write-protected: the child must not see a later write of the guest
 *     cow         the VMM writes to a page that a child has too, while the guest reads it
 *     guest-cow   the guest writes to such a page: the host copies it in the guest's own fault
 *     ksm         page 0 becomes page 1, which is equal: the other page must not see a later write to this one
 *     swap        the page is written to swap, and read back by the fault
 *     migrate     the page moves to another frame
 *     protect     mprotect(PROT_NONE), and back
 *     remap       fresh memory is mapped over the page
 *
 * Tasks: vcpu0 runs a guest that touches page 0, host does the above, irq0 is the CPU's interrupt handler.
 */
import { Cell, load, type Program, type Results, type Steps } from "../engine/index.ts";
import {
  type Child,
  followOrFault,
  fork,
  type Mm,
  madvisePageout,
  makeMerged,
  mergeInto,
  migratePage,
  mmapFixed,
  mprotect,
  PROT_NONE,
  PROT_READ,
  PROT_WRITE,
  putPage,
  readLock,
  readUnlock,
  writeLock,
  writeUnlock,
} from "../kernel/index.ts";
import { type GuestInstruction, gva, PAGE_SIZE, type Pfn, touch } from "../machine/index.ts";
import { tdpMappingsProblem } from "../oracle/tdp-mappings.ts";
import { cell, type StudyCell, study } from "./study.ts";
import { hostPage, type TdpScene, tdpScene } from "./tdp-scene.ts";

const READ_WRITE = PROT_READ | PROT_WRITE;
/** What the set-up's guest has written to each page, and what it writes now. */
const OLD = 1;
const NEW = 2;

const firstWord = ({ world }: TdpScene, frame: Pfn): Cell => new Cell<number>(world, frame * PAGE_SIZE, 8, false);

/** What the VMM would read from page 0: from its frame, or from the swap slot that its entry names. */
const valueOfPage0 = (scene: TdpScene): number =>
  firstWord(scene, Math.floor(scene.mm.pteOf(hostPage(0)).peek() / PAGE_SIZE) as Pfn).peek();

/** The VMM touches a page. */
function* touchPage(mm: Mm, page: number, write: boolean): Steps<void> {
  yield* readLock(mm.mmapLock);
  const found = yield* followOrFault(mm, hostPage(page), write);
  yield* readUnlock(mm.mmapLock);
  if (found !== null) yield* putPage(mm.frames, found.pfn);
}

const write0: GuestInstruction = {
  rip: null,
  cpl: 0,
  action: { kind: "access", access: "write", gva: gva(0), size: 8, value: { hi: 0, lo: NEW } },
};
const read0 = touch(0, "read");

/** What a child has of page 0, and what was there after fork(); null when the parent had a page of its own by then. */
interface Shared {
  readonly frame: Pfn;
  readonly value: number | null;
}

function* forkAndLook(scene: TdpScene): Steps<Shared> {
  const { mm } = scene;
  const child: Child = yield* fork(mm);
  const frame = child.frames[0] as Pfn;
  // Nobody copies the page meanwhile.
  yield* writeLock(mm.mmapLock);
  const isCommon = Math.floor((yield* load(mm.pteOf(hostPage(0)))) / PAGE_SIZE) === frame;
  const value = isCommon ? yield* load(firstWord(scene, frame)) : null;
  yield* writeUnlock(mm.mmapLock);
  return { frame, value };
}

/** Page 1 is one that others can be merged into. */
function* mergePage({ mm }: TdpScene): Steps<void> {
  const merged = Math.floor((yield* load(mm.pteOf(hostPage(1)))) / PAGE_SIZE) as Pfn;
  yield* mergeInto(mm, hostPage(0), merged);
}

interface Scenario {
  readonly guest: GuestInstruction;
  readonly host: (scene: TdpScene) => Steps<unknown>;
  /** The last steps of the set-up. */
  readonly prepare?: (scene: TdpScene) => Steps<unknown>;
  readonly check?: (scene: TdpScene, host: unknown) => string | null;
  /** Whatever the order, what the guest has written is there at the end. */
  readonly keepsWrites?: boolean;
  /** Faults before the vCPU gives up (KvmVariants.faultsMax). */
  readonly faultsMax: number;
  readonly because: string;
}

const SCENARIOS: Readonly<Record<string, Scenario>> = {
  fork: {
    guest: write0,
    keepsWrites: true,
    faultsMax: 1,
    host: forkAndLook,
    check: (scene, host) => {
      const { frame, value } = host as Shared;
      return value === null || firstWord(scene, frame).peek() === value
        ? null
        : "the child sees a write that came after fork()";
    },
    because: "the entry is zapped and flushed before fork() returns; a later write faults, and is given a copy",
  },
  cow: {
    guest: read0,
    faultsMax: 1,
    prepare: ({ mm }) => fork(mm),
    host: ({ mm }) => touchPage(mm, 0, true),
    because: "start() zaps the entry of the old page before the host's entry changes; a fault in between retries",
  },
  "guest-cow": {
    guest: write0,
    keepsWrites: true,
    faultsMax: 2,
    prepare: ({ mm }) => fork(mm),
    host: ({ mm }) => touchPage(mm, 0, false),
    because: "the copy is made under the notifier, so the fault that made it retries, and then finds it",
  },
  ksm: {
    guest: write0,
    keepsWrites: true,
    faultsMax: 1,
    prepare: ({ mm }) => makeMerged(mm, hostPage(1)),
    host: mergePage,
    check: (scene) => {
      const other = firstWord(scene, scene.mm.frameAt(hostPage(1)) as Pfn).peek();
      return other === OLD ? null : "the merged page has a write that was to one of the two";
    },
    because: "the page is write-protected, by an invalidation of its own, before it is compared the last time",
  },
  swap: {
    guest: write0,
    keepsWrites: true,
    faultsMax: 2,
    host: ({ mm }) => madvisePageout(mm, hostPage(0), hostPage(1)),
    because: "the entry is zapped before the page is copied to swap",
  },
  migrate: {
    guest: write0,
    keepsWrites: true,
    faultsMax: 2,
    host: ({ mm }) => migratePage(mm, hostPage(0)),
    because: "the entry is zapped before the page is copied, and a fault waits until it is at its new place",
  },
  protect: {
    guest: write0,
    keepsWrites: true,
    faultsMax: 1,
    host: function* ({ mm }) {
      yield* mprotect(mm, hostPage(0), hostPage(1), PROT_NONE);
      yield* mprotect(mm, hostPage(0), hostPage(1), READ_WRITE);
    },
    because: "nobody maps the page between the two, and the guest's fault fails or waits",
  },
  remap: {
    guest: write0,
    faultsMax: 2,
    host: ({ mm }) => mmapFixed(mm, hostPage(0), hostPage(1), READ_WRITE),
    because: "the old page is gone from every table before it is freed",
  },
};

/** What must hold at the end besides the order of the tables. */
function problemOf({ check, keepsWrites }: Scenario, scene: TdpScene, results: Results): string | null {
  const wrote = keepsWrites === true && results["vcpu0"] === "done";
  if (wrote && valueOfPage0(scene) !== NEW) return "what the guest has written is lost";
  return tdpMappingsProblem(scene.vm.tdp) ?? check?.(scene, results["host"]) ?? null;
}

function programOf(name: string, scenario: Scenario): Program {
  const { guest, host, prepare, faultsMax } = scenario;
  const frames = name === "ksm" ? 2 : 1;
  return tdpScene(`host-mm ${name}`, {
    frames,
    variants: { faultsMax },
    guests: [[guest]],
    warm: Array.from({ length: frames }, (_, i) => i),
    sharedPages: name === "ksm",
    threads: { host },
    ...(prepare === undefined ? {} : { prepare }),
    check: (scene, results) => problemOf(scenario, scene, results),
  });
}

function cells(): StudyCell[] {
  return Object.entries(SCENARIOS).flatMap(([name, scenario]) =>
    // The merge has many more interleavings than the others.
    (name === "ksm" ? (["sc"] as const) : (["sc", "tso"] as const)).map((model) =>
      cell({
        variant: "7.2",
        scenario: name,
        property: "isolation",
        model,
        expected: "holds",
        because: scenario.because,
        program: () => programOf(name, scenario),
      }),
    ),
  );
}

export default study({
  id: "host-mm",
  title: "Do the guest's mappings follow what the host does to its own pages?",
  source:
    "mm/memory.c, ksm.c, mremap.c, mprotect.c and virt/kvm/kvm_main.c of Linux 7.2: the contract of the MMU notifiers",
  variants: { "7.2": "Linux 7.2" },
  cells: cells(),
});
