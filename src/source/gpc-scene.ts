/**
 * The scene of the study gpc-refresh on a compiled kernel: pfncache.c and the MMU notifier of kvm_main.c, a VM made by kvm_create_vm(), a memslot made
 * by kvm_set_memory_region(). The host process (munmap, get_user_pages) is ours, as it is for the TypeScript body.
 */
import { assert, cell, runSequentially, type Steps, type World } from "../engine/index.ts";
import { current, Kernel, Mm, type MmOptions, type PageFrames, PROT_READ, PROT_WRITE } from "../kernel/index.ts";
import { hva, PAGE_SIZE } from "../machine/index.ts";
import { GPC_HOST, type Scene, type SceneOptions } from "../studies/gpc-refresh.ts";
import { ABANDONED, Host, SourceFrames } from "./host.ts";
import type { Image } from "./image.ts";
import { CompiledKernel } from "./machine.ts";
import { registerNotifier } from "./notifier.ts";
import { invokeRcuCallback, servicesOf } from "./services.ts";

/** Guest-physical address that is cached: the second page of the memslot. */
const GPA = PAGE_SIZE;

/** @param racing places whose plain accesses race in this scenario, and so count as marked */
export function gpcSceneOn(image: Image, racing: Iterable<number>): (world: World, options: SceneOptions) => Scene {
  return (world, options) => {
    const { kernel, mm, host } = bootKernel(world, image, GPC_HOST);
    for (let n = 0; n < GPC_HOST.pages; n++) {
      const at = hva(GPC_HOST.base + n * PAGE_SIZE);
      mm.addVma(at, hva(at + PAGE_SIZE), PROT_READ | PROT_WRITE);
    }
    mm.populate(GPC_HOST.cached, "the page");
    mm.populate(GPC_HOST.other, "another page");
    runSequentially(world, 0, "set-up", () => setUp(kernel, host, options));
    kernel.treatAsMarked(racing);
    return {
      ...{ world, mm },
      *refresh(): Steps<boolean> {
        try {
          return (yield* kernel.call("rw_gpc_refresh")) === 0;
        } catch (error) {
          if (error !== ABANDONED) throw error;
          current(world).abandon();
          return false;
        }
      },
      *use(): Steps<void> {
        yield* kernel.call("rw_gpc_use", 1n);
      },
      started: cell(world, "started"),
    };
  };
}

function* setUp(kernel: CompiledKernel, host: Host, options: SceneOptions): Steps<void> {
  const kvm = yield* createVm(kernel, host);
  const { first, pages } = GPC_HOST.slot;
  yield* setMemoryRegion(kernel, kvm, { pages, hva: first });
  yield* kernel.call("rw_gpc_init", BigInt(kvm), BigInt(GPA));
  const activated = yield* kernel.call("rw_gpc_activate");
  assert(activated === 0, `kvm_gpc_activate() returns ${activated}`);
  if (options.valid !== true) yield* kernel.call("rw_gpc_make_invalid");
  host.retriesMax = options.retriesMax ?? 1;
}

/** The kernel with its services, before any VM. */
export function bootKernel(
  world: World,
  image: Image,
  process: { readonly base: ReturnType<typeof hva>; readonly pages: number },
  more: { readonly mm?: MmOptions; readonly frames?: { readonly reuse: boolean } } = {},
): { kernel: CompiledKernel; mm: Mm; host: Host; linux: Kernel } {
  const made: { host: Host | null } = { host: null };
  const kernel = new CompiledKernel(
    world,
    image,
    servicesOf(() => made.host as Host),
  );
  const linux = new Kernel(world);
  const frames = new SourceFrames(world, more.frames);
  frames.attach(kernel);
  const mm = new Mm(world, frames as PageFrames, process.base, process.pages, more.mm);
  const host = new Host(world, linux, frames, mm, typesBySize(image));
  made.host = host;
  host.mmapLock = kernel.addressOf("rw_mm") + kernel.offsetOf("mm_struct", "mmap_lock");
  host.rcuHandler = linux.rcu.register((head) => invokeRcuCallback(kernel, head));
  const tasks = kernel.addressOf("rw_tasks");
  const bytes = kernel.image.description.structs["task_struct"]?.bytes ?? 0;
  kernel.taskStruct = (lane) => tasks + bytes * lane;
  return { kernel, mm, host, linux };
}

/** Objects that KVM allocates by size, whose type the size tells. */
function typesBySize({ description }: Image): Map<string, string> {
  const names = ["kvm", "kvm_vcpu", "kvm_memory_slot"];
  return new Map(names.map((name) => [String(description.structs[name]?.bytes ?? 0), name]));
}

/** A memslot, as KVM_SET_USER_MEMORY_REGION has it. */
export interface Region {
  readonly id?: number;
  /** The first guest frame. */
  readonly gfn?: number;
  readonly pages: number;
  readonly hva: number;
  /** KVM_MEM_* */
  readonly flags?: number;
}

/** KVM_SET_USER_MEMORY_REGION: memslot 0 from guest frame 0 on if nothing else is said. */
export function* setMemoryRegion(
  kernel: CompiledKernel,
  kvm: number,
  { id = 0, gfn = 0, pages, hva, flags = 0 }: Region,
): Steps<void> {
  const [gpa, bytes] = [BigInt(gfn * PAGE_SIZE), BigInt(pages * PAGE_SIZE)];
  const result = yield* kernel.call("rw_set_memory_region", BigInt(kvm), id, flags, gpa, bytes, BigInt(hva));
  assert(result === 0, `KVM_SET_USER_MEMORY_REGION returns ${result}`);
}

/**
 * KVM_CREATE_VM: returns struct kvm. The VM is told what happens to the process's memory from here on.
 * @param paging how the vendor module wants its tables (runtime/x86.c); tdpMmu: the module parameter
 */
export function* createVm(
  kernel: CompiledKernel,
  host: Host,
  { paging = 0, tdpMmu = true }: { readonly paging?: number; readonly tdpMmu?: boolean } = {},
): Steps<number> {
  yield* kernel.call("rw_boot");
  yield* kernel.call("rw_module_params", tdpMmu ? 1 : 0);
  yield* kernel.call("rw_vendor_init", paging);
  const kvm = yield* kernel.call("rw_create_vm");
  yield* kernel.call("rw_vm_params", BigInt(kvm), tdpMmu ? 1 : 0);
  registerNotifier(kernel, host.mm, kvm);
  return kvm;
}
