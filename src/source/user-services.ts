/**
 * What a compiled KVM asks of the process that it runs for: its pages, its memory, its page tables; and work that is done later.
 */
import { type Steps, type U64, UsageError, u64 } from "../engine/index.ts";
import {
  current,
  getUser,
  getUserPage,
  getUserPageFast,
  putUser,
  tryCmpxchgUser,
  type UserAccessSize,
} from "../kernel/index.ts";
import { type Hva, hva, PAGE_SIZE, type Pfn } from "../machine/index.ts";
import type { Host } from "./host.ts";
import type { Answer, CompiledKernel, Services } from "./machine.ts";

const FOLL_WRITE = 1;
const EFAULT = 14;
/** The function of a struct work_struct, and of a delayed one: after its data word and its list. */
const WORK_FUNCTION = 24;

export interface PageRequest {
  readonly start: number;
  readonly count: number;
  readonly flags: number;
  /** Where the struct pages go; 0 for nowhere. */
  readonly list: number;
  readonly fast: boolean;
}

/** get_user_pages_fast_only(), get_user_pages_unlocked(): how many pages, or an error. */
export function* lookUpPages(kernel: CompiledKernel, host: Host, request: PageRequest): Steps<number> {
  for (let i = 0; i < request.count; i++) {
    const got = yield* lookUpPage(kernel, host, {
      ...request,
      start: request.start + i * PAGE_SIZE,
      list: request.list === 0 ? 0 : request.list + 8 * i,
    });
    if (got !== 1) return i === 0 ? got : i;
  }
  return request.count;
}

function* lookUpPage(kernel: CompiledKernel, host: Host, { start, flags, list, fast }: PageRequest): Steps<number> {
  const write = (flags & FOLL_WRITE) !== 0;
  const { mm, frames } = host;
  const addr = start as Hva;
  const mayLook = !fast || mm.policy === null || beforeFast(kernel, host, addr);
  if (!mayLook) return 0;
  if (!fast) host.broughtIn = addr;
  const page = yield* fast ? getUserPageFast(mm, addr, write) : getUserPage(mm, addr, write);
  if (page === null) return fast ? 0 : -EFAULT;
  if (list !== 0) kernel.write(list, 8, frames.addressOf(page.pfn));
  return 1;
}

/**
 * With a recording, what backs a page is known from the fault itself. hva_to_pfn() first looks whether the page may be had writable at once, which is not
 * for the recording to answer: that look fails, the second one (after get_user_pages()) does not. Under mmu_lock it is a prefetch.
 */
function beforeFast(kernel: CompiledKernel, host: Host, addr: Hva): boolean {
  if (current(kernel.world).isAtomic) {
    host.mm.policy?.beforePrefetch(addr);
    return true;
  }
  const isSecond = host.broughtIn === addr;
  host.broughtIn = -1;
  return isSecond;
}

export function userServices(host: () => Host): Services {
  return {
    rw_copy_from_user: (kernel, to = 0, from = 0, bytes = 0) => copyFromUser(kernel, host(), to, from, bytes),
    _copy_from_user: (kernel, to = 0, from = 0, bytes = 0) => copyFromUser(kernel, host(), to, from, bytes),
    rw_copy_to_user: (kernel, to = 0, from = 0, bytes = 0) => copyToUser(kernel, host(), to, from, bytes),
    _copy_to_user: (kernel, to = 0, from = 0, bytes = 0) => copyToUser(kernel, host(), to, from, bytes),
    rw_cmpxchg_user: (kernel, at = 0, old = 0, replacement = 0, bytes = 0) =>
      compareExchangeUser(kernel, host(), { at, old, replacement, bytes }),
    *rw_pgd_offset(_, _mm = 0, addr = 0) {
      const { mm, pageTables } = host();
      if (mm.policy !== null) yield* mm.policy.beforeLevel(addr as Hva);
      return pageTables?.pgdOffset(addr) ?? 0;
    },
    queue_work_on: (kernel, _cpu = 0, _queue = 0, work = 0) => {
      host().works.push({ work, func: kernel.peek(work + WORK_FUNCTION, 8) });
      return 1;
    },
    flush_workqueue: (kernel) => doWorks(kernel, host()),
    flush_work: (kernel) => doWorks(kernel, host()),
    __flush_workqueue: (kernel) => doWorks(kernel, host()),
    destroy_workqueue: () => 0,
    sysfs_streq: (kernel, a = 0, b = 0) => (kernel.text(a).trim() === kernel.text(b).trim() ? 1 : 0),
    set_memory_decrypted: () => 0,
    set_memory_encrypted: () => 0,
    vmalloc_to_page: (_, addr = 0) => host().frames.addressOf(Math.floor(addr / PAGE_SIZE) as Pfn),
    // On the bus of devices inside of the kernel there is none.
    bsearch: (_, _key = 0, _base = 0, count = 0): Answer => {
      if (count > 0) throw new UsageError("the kernel looks for something with bsearch(); give it a service that does");
      return 0;
    },
    vhost_task_wake: () => 0,
    kvm_hv_setup_tsc_page: () => 0,
    vhost_task_stop: () => 0,
    kvm_pmu_trigger_event: () => 0,
    kvm_apic_set_base: () => 0,
    kvm_update_cpuid_runtime: () => 0,
    kvm_update_pv_runtime: () => 0,
    mmu_notifier_unregister: () => 0,
    percpu_counter_destroy_many: () => 0,
    kvm_vcpu_reserved_gpa_bits_raw: (): bigint => 0xffff_c000_0000_0000n,
  };
}

/** Work that was queued, done by whoever waits for it. */
function* doWorks(kernel: CompiledKernel, { works }: Host): Steps<void> {
  for (let next = works.shift(); next !== undefined; next = works.shift()) {
    yield* kernel.callPointer(next.func, BigInt(next.work));
  }
}

// --- memory of the process -------------------------------------------------------------------------------------------

/** Pieces of an access that are aligned to their size and lie in one page. */
function* pieces(addr: number, bytes: number): Generator<{ readonly offset: number; readonly size: UserAccessSize }> {
  for (let offset = 0; offset < bytes; ) {
    const left = bytes - offset;
    const size = ([8, 4, 2] as const).find((each) => each <= left && (addr + offset) % each === 0) ?? 1;
    yield { offset, size };
    offset += size;
  }
}

/** pagefault_disable(): the page has to be there already. */
function isWithoutFaults(kernel: CompiledKernel): boolean {
  const task = kernel.taskStruct(current(kernel.world).task.lane);
  return kernel.peek(task + kernel.offsetOf("task_struct", "pagefault_disabled"), 4) !== 0;
}

/** What could not be copied. An address in the heap is a buffer of the VMM's that is no guest memory. */
function* copyFromUser(kernel: CompiledKernel, host: Host, to: number, from: number, bytes: number): Steps<Answer> {
  const { mm, world } = host;
  const isOwn = from < world.heap.bytes;
  const atomic = !isOwn && isWithoutFaults(kernel);
  for (const { offset, size } of pieces(from, bytes)) {
    const addr = from + offset;
    if (!isOwn && !mm.covers(hva(addr))) return bytes - offset;
    const value: U64 | null = isOwn ? ownValue(kernel, addr, size) : yield* getUser(mm, hva(addr), size, atomic);
    if (value === null) return bytes - offset;
    writeValue(kernel, to + offset, value, size);
  }
  return 0;
}

function* copyToUser(kernel: CompiledKernel, host: Host, to: number, from: number, bytes: number): Steps<Answer> {
  const { mm, world } = host;
  const isOwn = to < world.heap.bytes;
  for (const { offset, size } of pieces(to, bytes)) {
    const value = ownValue(kernel, from + offset, size);
    if (isOwn) writeValue(kernel, to + offset, value, size);
    else if (!mm.covers(hva(to + offset)) || !(yield* putUser(mm, hva(to + offset), value, size)))
      return bytes - offset;
  }
  return 0;
}

interface Exchange {
  readonly at: number;
  /** Where the expected value is, and what is found goes. */
  readonly old: number;
  /** Where the new one is. */
  readonly replacement: number;
  readonly bytes: number;
}

function* compareExchangeUser(
  kernel: CompiledKernel,
  { mm }: Host,
  { at, old, replacement, bytes }: Exchange,
): Steps<number> {
  if (bytes !== 4 && bytes !== 8) return -EFAULT;
  const expected = ownValue(kernel, old, bytes);
  const found = yield* tryCmpxchgUser(mm, hva(at), bytes, expected, ownValue(kernel, replacement, bytes));
  if (found === null) return -EFAULT;
  if (found.lo === expected.lo && (bytes === 4 || found.hi === expected.hi)) return 0;
  writeValue(kernel, old, found, bytes);
  return 1;
}

function ownValue(kernel: CompiledKernel, addr: number, size: UserAccessSize): U64 {
  let lo = 0;
  let hi = 0;
  for (let i = size - 1; i >= 0; i--) {
    const byte = kernel.peek(addr + i, 1);
    if (i < 4) lo = lo * 256 + byte;
    else hi = hi * 256 + byte;
  }
  return u64(hi, lo);
}

function writeValue(kernel: CompiledKernel, addr: number, { hi, lo }: U64, size: UserAccessSize): void {
  for (let i = 0; i < size; i++) kernel.write(addr + i, 1, ((i < 4 ? lo : hi) >>> (8 * (i % 4))) & 0xff);
}
