/**
 * What a compiled KVM calls of the rest of the kernel.
 *
 * A service takes the arguments of the C function as numbers. One that is a generator asks for operations and so is a place where others may run; the
 * others answer at once. Objects are known by address. To add one for a new kernel version: a line here, named as the C function is.
 */
import {
  awaitUntil,
  Cell,
  fence,
  load,
  note,
  type Operation,
  progress,
  retire,
  type Steps,
  store,
  Violation,
} from "../engine/index.ts";
import {
  callRcu,
  current,
  mutexLock,
  mutexUnlock,
  type RwLock,
  rcuReadLock,
  rcuReadUnlock,
  readLock,
  readUnlock,
  spinLock,
  spinUnlock,
  srcuReadLock,
  srcuReadUnlock,
  synchronizeRcu,
  synchronizeSrcu,
  vmaAt,
  writeLock,
  writeUnlock,
} from "../kernel/index.ts";
import {
  type Hpa,
  type Hva,
  hpaToPfn,
  interrupt,
  interruptAndWait,
  maskInterrupts,
  PAGE_SIZE,
  pfnToHpa,
  unmaskInterrupts,
} from "../machine/index.ts";
import { ABANDONED, type Host, PAGES, structureOf } from "./host.ts";
import type { Answer, CompiledKernel, Service, Services } from "./machine.ts";
import type { ObjectPool } from "./object-pool.ts";
import { lookUpPages, userServices } from "./user-services.ts";

const EFLAGS_IF = 0x200;
const EFAULT = 14;
/** 1 << TIF_SIGPENDING */
const TIF_SIGPENDING_BIT = 4;
const MMU_LOCK = "kvm->mmu_lock";
/** kfree_rcu() gives the offset of the rcu_head where others give a function. */
const KFREE_RCU_BELOW = 4096;

export function servicesOf(host: () => Host): Services {
  return {
    ...lockServices(host),
    ...waitServices(host),
    ...memoryServices(host),
    ...taskServices(host),
    ...setupServices(host),
    ...userServices(host),
  };
}

// --- locks, RCU, SRCU ------------------------------------------------------------------------------------------------

function lockServices(host: () => Host): Services {
  const irqsOff = (): void => {
    current(host().world).irqsDisabled = true;
  };
  const irqsOn = (): void => {
    current(host().world).irqsDisabled = false;
  };
  /** A lock function and its variants with interrupts off. */
  const taking = (name: string, take: (addr: number) => Steps<unknown>): Record<string, Service> => ({
    [name]: (_, addr = 0) => quiet(take(addr)),
    [`${name}_bh`]: (_, addr = 0) => quiet(take(addr)),
    [`${name}_irq`]: (_, addr = 0) => {
      irqsOff();
      return quiet(take(addr));
    },
    [`${name}_irqsave`]: (_, addr = 0) => takeSaving(take(addr)),
  });
  function* takeSaving(steps: Steps<unknown>): Steps<number> {
    const flags = current(host().world).irqsDisabled ? 0 : EFLAGS_IF;
    irqsOff();
    yield* steps;
    return flags;
  }
  const dropping = (name: string, drop: (addr: number) => Steps<unknown>): Record<string, Service> => ({
    [name]: (_, addr = 0) => quiet(drop(addr)),
    [`${name}_bh`]: (_, addr = 0) => quiet(drop(addr)),
    [`${name}_irq`]: (_, addr = 0) => dropRestoring(drop(addr), EFLAGS_IF),
    [`${name}_irqrestore`]: (_, addr = 0, flags = 0) => dropRestoring(drop(addr), flags),
  });
  function* dropRestoring(steps: Steps<unknown>, flags: number): Steps<void> {
    yield* steps;
    if (flags !== 0) irqsOn();
  }
  return {
    ...taking("_raw_spin_lock", function* (addr) {
      yield* spinLock(host().spinLock(addr));
    }),
    ...dropping("_raw_spin_unlock", function* (addr) {
      yield* spinUnlock(host().spinLock(addr));
    }),
    ...taking("_raw_read_lock", function* (addr) {
      yield* readLock(host().rwLock(addr));
    }),
    ...dropping("_raw_read_unlock", function* (addr) {
      yield* readUnlock(host().rwLock(addr));
    }),
    ...taking("_raw_write_lock", function* (addr) {
      yield* writeLock(host().rwLock(addr));
    }),
    ...dropping("_raw_write_unlock", function* (addr) {
      yield* writeUnlock(host().rwLock(addr));
    }),
    *mutex_lock(_, addr = 0) {
      yield* mutexLock(host().mutex(addr));
    },
    *mutex_lock_killable(_, addr = 0) {
      yield* mutexLock(host().mutex(addr));
      return 0;
    },
    *mutex_unlock(_, addr = 0) {
      yield* mutexUnlock(host().mutex(addr));
    },
    *down_read(_, addr = 0) {
      yield* readLock(host().rwSemaphore(addr));
    },
    *up_read(_, addr = 0) {
      yield* readUnlock(host().rwSemaphore(addr));
    },
    *down_write(_, addr = 0) {
      yield* writeLock(host().rwSemaphore(addr));
    },
    *up_write(_, addr = 0) {
      yield* writeUnlock(host().rwSemaphore(addr));
    },
    __rcu_read_lock: () => rcuReadLock(host().kernel.rcu),
    __rcu_read_unlock: () => rcuReadUnlock(host().kernel.rcu),
    synchronize_rcu: () => synchronizeRcu(host().kernel.rcu),
    *call_rcu(kernel, head = 0, func = 0) {
      kernel.write(head + 8, 8, func);
      yield* callRcu(host().kernel.rcu, head, host().rcuHandler);
    },
    *kvfree_call_rcu(kernel, head = 0, func = 0) {
      kernel.write(head + 8, 8, func);
      yield* callRcu(host().kernel.rcu, head, host().rcuHandler);
    },
    init_srcu_struct: (_, srcu = 0) => {
      host().srcu(srcu);
      return 0;
    },
    cleanup_srcu_struct: nothing,
    *__srcu_read_lock(_, srcu = 0) {
      yield* srcuReadLock(host().srcu(srcu));
      return 0;
    },
    *__srcu_read_unlock(_, srcu = 0) {
      yield* srcuReadUnlock(host().srcu(srcu));
    },
    synchronize_srcu: (_, srcu = 0) => synchronizeSrcu(host().srcu(srcu)),
    synchronize_srcu_expedited: (_, srcu = 0) => synchronizeSrcu(host().srcu(srcu)),
  };
}

/** A signal to the thread, when its alarm is due: TIF_SIGPENDING in what task_struct begins with. */
function ringAlarm(kernel: CompiledKernel, host: Host, lane: number): void {
  if (host.alarm === null) return;
  host.alarm--;
  if (host.alarm > 0) return;
  const flags = kernel.taskStruct(lane);
  kernel.poke(flags, 4, kernel.peek(flags, 4) | TIF_SIGPENDING_BIT);
}

/** Invokes an RCU callback of C: what host.rcuHandler stands for. */
export function* invokeRcuCallback(kernel: CompiledKernel, head: number): Steps<void> {
  const func = kernel.world.plainRead(head + 8, 8);
  if (func < KFREE_RCU_BELOW) yield* free(kernel, head - func);
  else yield* kernel.callPointer(func, BigInt(head));
}

function* quiet(steps: Steps<unknown>): Steps<void> {
  yield* steps;
}

// --- waiting ---------------------------------------------------------------------------------------------------------

function waitServices(host: () => Host): Services {
  /** Asked when the scheduler wants the CPU back, or somebody the lock. */
  function* yieldLock(
    addr: number,
    take: (lock: RwLock) => Operation<number>,
    drop: (lock: RwLock) => Operation<number>,
  ): Steps<number> {
    const lock = host().rwLock(addr);
    yield* drop(lock);
    yield* take(lock);
    return 1;
  }
  const stateOf = (kernel: CompiledKernel, task: number): Cell =>
    new Cell<number>(kernel.world, task + kernel.offsetOf("task_struct", "__state"), 4, false);
  return {
    /** A struct rcuwait is the one task that waits, or NULL. */
    *rcuwait_wake_up(kernel, wait = 0) {
      const { world } = kernel;
      yield* fence(world);
      const task = yield* load(new Cell<number>(world, wait, 8, false));
      if (task === 0) return 0;
      yield* store(stateOf(kernel, task), 0, "wake_up_process()");
      return 1;
    },
    *finish_rcuwait(kernel, wait = 0) {
      const { world } = kernel;
      yield* store(new Cell<number>(world, wait, 8, false), 0);
      yield* store(stateOf(kernel, kernel.taskStruct(current(world).task.lane)), 0, "__set_current_state(RUNNING)");
    },
    *wake_up_process(kernel, task = 0) {
      yield* store(stateOf(kernel, task), 0, "wake_up_process()");
      return 1;
    },
    *schedule(kernel) {
      const self = current(kernel.world);
      self.mightSleep("schedule()");
      yield* awaitUntil(stateOf(kernel, kernel.taskStruct(self.task.lane)), (state) => state === 0, "schedule()");
    },
    // Loops that start over offer to reschedule first.
    __cond_resched: (kernel) => {
      const self = current(kernel.world);
      self.mightSleep("cond_resched()");
      ringAlarm(kernel, host(), self.task.lane);
      const { retries, retriesMax } = host();
      const count = retries.get(self) ?? 0;
      if (count >= retriesMax) throw ABANDONED;
      retries.set(self, count + 1);
      return 0;
    },
    __cond_resched_rwlock_read: (_, addr = 0) => yieldLock(addr, readLock, readUnlock),
    __cond_resched_rwlock_write: (_, addr = 0) => yieldLock(addr, writeLock, writeUnlock),
    *rw_cpu_relax(kernel) {
      yield* note(kernel.world, "cpu_relax()");
    },
    *rw_emulation_fails(kernel) {
      yield* note(kernel.world, "emulation fails");
    },
    *rw_progress(kernel) {
      yield* progress(kernel.world);
    },
    rcu_barrier: nothing,
    __init_swait_queue_head: nothing,
    __init_rwsem: nothing,
    __mutex_init: nothing,
    complete: nothing,
    wait_for_completion: nothing,
  };
}

// --- memory ----------------------------------------------------------------------------------------------------------

function memoryServices(host: () => Host): Services {
  const allocate = (kernel: CompiledKernel, bytes: number, name: string, type: string): number =>
    kernel.world.allocate(Math.max(8, bytes), name, kernel.describe(type));
  const anonymous = (kernel: CompiledKernel, bytes: number): number => {
    const type = host().types.get(String(bytes)) ?? "";
    return allocate(kernel, bytes, type === "" ? "kmalloc" : type, type);
  };
  const pages = (order: number): number => pfnToHpa(host().frames.allocate("page", 2 ** order));
  const page = (order: number): number | Steps<number> => {
    const pool = order === 0 ? host().poolFor(PAGES) : null;
    return pool === null ? pages(order) : pool.take();
  };
  const create = (kernel: CompiledKernel, name: number, bytes: number): number => {
    const addr = allocate(kernel, 64, `slab ${kernel.text(name)}`, "");
    host().caches.set(addr, { name: kernel.text(name), bytes });
    return addr;
  };
  const fromCache = (kernel: CompiledKernel, cache: number): number | Steps<number> => {
    const { name, bytes } = host().caches.get(cache) ?? { name: "kmalloc", bytes: 0 };
    if (bytes === 0) throw new Violation("oops", "kmem_cache_alloc() of what is no cache");
    const pool = host().poolFor(cache);
    if (pool !== null) return pool.take();
    const type = structureOf(name);
    return allocate(kernel, bytes, type, type);
  };
  return {
    kmem_cache_create: (kernel, name = 0, bytes = 0) => create(kernel, name, bytes),
    kmem_cache_create_usercopy: (kernel, name = 0, bytes = 0) => create(kernel, name, bytes),
    __kmem_cache_create_args: (kernel, name = 0, bytes = 0) => create(kernel, name, bytes),
    kmem_cache_destroy: nothing,
    kmem_cache_alloc: (kernel, cache = 0) => fromCache(kernel, cache),
    kmem_cache_alloc_lru: (kernel, cache = 0) => fromCache(kernel, cache),
    kmem_cache_alloc_noprof: (kernel, cache = 0) => fromCache(kernel, cache),
    kmem_cache_alloc_lru_noprof: (kernel, cache = 0) => fromCache(kernel, cache),
    kmem_cache_free: (kernel, cache = 0, addr = 0) => free(kernel, addr, host().poolFor(cache)),
    kmalloc_trace: (kernel, _cache = 0, _flags = 0, bytes = 0) => anonymous(kernel, bytes),
    __kmalloc: (kernel, bytes = 0) => anonymous(kernel, bytes),
    __kmalloc_node: (kernel, bytes = 0) => anonymous(kernel, bytes),
    kvmalloc_node: (kernel, bytes = 0) => anonymous(kernel, bytes),
    __kmalloc_noprof: (kernel, bytes = 0) => anonymous(kernel, bytes),
    __kmalloc_cache_noprof: (kernel, _cache = 0, _flags = 0, bytes = 0) => anonymous(kernel, bytes),
    __kvmalloc_node_noprof: (kernel, bytes = 0) => anonymous(kernel, bytes),
    __vmalloc: (kernel, bytes = 0) => anonymous(kernel, bytes),
    __vmalloc_noprof: (kernel, bytes = 0) => anonymous(kernel, bytes),
    vzalloc: (kernel, bytes = 0) => anonymous(kernel, bytes),
    vzalloc_noprof: (kernel, bytes = 0) => anonymous(kernel, bytes),
    __vcalloc: (kernel, count = 0, bytes = 0) => anonymous(kernel, count * bytes),
    __vcalloc_noprof: (kernel, count = 0, bytes = 0) => anonymous(kernel, count * bytes),
    kfree: (kernel, addr = 0) => free(kernel, addr),
    kvfree: (kernel, addr = 0) => free(kernel, addr),
    vfree: (kernel, addr = 0) => free(kernel, addr),
    __get_free_pages: (_, _flags = 0, order = 0) => page(order),
    get_free_pages_noprof: (_, _flags = 0, order = 0) => page(order),
    get_zeroed_page: () => page(0),
    get_zeroed_page_noprof: () => page(0),
    alloc_pages: (_, _flags = 0, order = 0) => host().frames.addressOf(hpaToPfn(pages(order) as Hpa)),
    alloc_pages_noprof: (_, _flags = 0, order = 0) => host().frames.addressOf(hpaToPfn(pages(order) as Hpa)),
    free_pages: (kernel, addr = 0) => free(kernel, addr, host().poolFor(PAGES)),
    /** The last reference of a page is gone. */
    *__folio_put(kernel, folio = 0) {
      const { frames } = host();
      yield* retire(kernel.world, pfnToHpa(frames.frameOf(folio)), "freed", "isolation");
      frames.noteFreed(frames.frameOf(folio));
    },
    get_user_pages_fast_only: (kernel, start = 0, count = 1, flags = 0, list = 0) =>
      lookUpPages(kernel, host(), { start, count, flags, list, fast: true }),
    get_user_pages_unlocked: (kernel, start = 0, count = 1, list = 0, flags = 0) =>
      lookUpPages(kernel, host(), { start, count, flags, list, fast: false }),
    // Asks whether the page is poisoned.
    get_user_pages: () => -EFAULT,
    // vma_lookup(), under mmap_lock.
    mtree_load: (kernel, _tree = 0, addr = 0) =>
      vmaAt(host().mm, addr as Hva) === null ? 0 : kernel.addressOf("rw_kept_vma"),
    /** Touches struct page. Who holds mmu_lock zaps a mapping, which must be allowed still; the others have a reference to the page. */
    *mark_page_accessed(kernel, page = 0) {
      const { world } = kernel;
      if (!current(world).heldLocks.some(({ name }) => name === MMU_LOCK)) return;
      const end = pfnToHpa(host().frames.frameOf(page)) + PAGE_SIZE;
      yield* load(new Cell<number>(world, end - 8, 8, false), "mark_page_accessed()");
    },
    folio_mark_accessed: nothing,
    percpu_counter_add_batch: nothing,
    mod_node_page_state: nothing,
    mod_lruvec_page_state: nothing,
    __mod_lruvec_page_state: nothing,
    __percpu_counter_init: nothing,
    percpu_counter_destroy: nothing,
    __percpu_counter_init_many: nothing,
    register_shrinker: nothing,
    shrinker_alloc: (kernel) => anonymous(kernel, 256),
    shrinker_register: nothing,
  };
}

/** kfree(): what set-up allocated stays, it is out of reach anyway. @param pool where what is freed goes, if it came from there */
function* free(kernel: CompiledKernel, addr: number, pool: ObjectPool | null = null): Steps<void> {
  const { world } = kernel;
  if (addr === 0 || !world.isMortal(world.lifeOf(addr))) return;
  yield* retire(world, addr, "freed");
  if (pool !== null) yield* pool.put(addr);
}

// --- the running task ------------------------------------------------------------------------------------------------

function taskServices(host: () => Host): Services {
  const self = (): ReturnType<typeof current> => current(host().world);
  return {
    rw_preempt_count: () => self().preemptCount,
    rw_preempt_add: (_, n = 0) => {
      self().preemptCount += n;
    },
    rw_irq_get: () => (self().irqsDisabled ? 0 : EFLAGS_IF),
    rw_irq_set: (_, flags = 0) => {
      const was = self().irqsDisabled ? 0 : EFLAGS_IF;
      self().irqsDisabled = flags === 0;
      return was === flags ? was : setInterruptFlag(host(), was, flags);
    },
    /** kvm_kick_many_cpus(): each CPU of the mask but the own. */
    *smp_call_function_many(kernel, mask = 0, _func = 0, _info = 0, wait = 0) {
      const { interrupts } = host();
      const from = self().cpu;
      const bits = kernel.world.plainRead(mask, 8);
      const targets = Array.from({ length: 31 }, (_unused, cpu) => cpu).filter(
        (cpu) => cpu !== from && ((bits >>> cpu) & 1) !== 0,
      );
      if (interrupts === null || targets.length === 0) return;
      if (wait !== 0) yield* interruptAndWait(interrupts, from, targets);
      else for (const cpu of targets) yield* interrupt(interrupts, from, cpu);
    },
    *rw_interrupt(_, cpu = 0) {
      const { interrupts } = host();
      if (interrupts !== null) yield* interrupt(interrupts, self().cpu, cpu);
    },
    rw_flush_tlb: () => host().guests.get(self().cpu)?.tlb.flushAll(),
    rw_load_root: nothing,
    rw_bug: (kernel, file = 0, line = 0) => {
      throw new Violation("oops", `BUG() at ${placeText(kernel, file, line)}`);
    },
    rw_warn: (kernel, file = 0, line = 0) => {
      if (!kernel.world.started && !host().warns) return;
      throw new Violation("warning", `WARN_ON() at ${placeText(kernel, file, line)}`);
    },
    __warn_printk: nothing,
    _printk: (kernel, text = 0) => {
      if (!kernel.world.started) host().log.push(kernel.text(text));
    },
    refcount_warn_saturate: () => {
      throw new Violation("warning", "a refcount_t saturates");
    },
    ___ratelimit: () => 0,
  };
}

/** What an interrupt sees of the flag; nothing where no CPU sends any. */
function* setInterruptFlag({ interrupts, world }: Host, was: number, flags: number): Steps<number> {
  const { cpu } = current(world);
  if (interrupts !== null && flags === 0) yield* maskInterrupts(interrupts, cpu);
  else if (interrupts !== null) yield* unmaskInterrupts(interrupts, cpu);
  return was;
}

function placeText(kernel: CompiledKernel, file: number, line: number): string {
  const path = kernel.text(file);
  const at = path.search(/(?:virt|arch|include|lib|mm)\//);
  return `${at < 0 ? path : path.slice(at)}:${line}`;
}

function nothing(): Answer {
  return 0;
}

// --- what only set-up calls ------------------------------------------------------------------------------------------

/** Functions that do nothing here: debugfs, files, timers, the interrupt controller; KVM calls them while a VM is made. */
const WITHOUT_EFFECT =
  "on_each_cpu_cond_mask preempt_notifier_inc preempt_notifier_dec register_pm_notifier unregister_pm_notifier debugfs_lookup " +
  "debugfs_create_dir debugfs_create_file debugfs_remove kvm_eventfd_init kvm_coalesced_mmio_init kvm_coalesced_mmio_free __module_get " +
  "module_put snprintf mmu_notifier_register kvm_hv_init_vm init_timer_key dput ktime_get_with_offset check_tsc_unstable ktime_get_raw " +
  "ktime_get kvm_arch_create_vcpu_debugfs __get_task_comm try_module_get kvm_xen_init_vm kvm_irqfd_init kvm_setup_empty_irq_routing " +
  "cpu_emergency_register_virt_callback register_syscore kvm_init_irq_routing alloc_workqueue_noprof cpuhp_setup_state kvm_find_cpuid_entry kvm_find_cpuid_entry_index kvm_find_cpuid_entry2 kthread_unpark __cpuhp_setup_state kvm_pmu_ops_update preempt_notifier_register preempt_notifier_unregister kvm_arch_irq_routing_update";

function setupServices(host: () => Host): Services {
  void host;
  return {
    ...Object.fromEntries(WITHOUT_EFFECT.split(" ").map((name): [string, Service] => [name, nothing])),
    debugfs_initialized: () => 0,
    alloc_workqueue: (kernel) => kernel.taskStruct(0),
    // KVM's worker for NX huge pages: it never runs by itself.
    kthread_create_on_node: (kernel) => kernel.taskStruct(kernel.world.tasksMax - 1),
  };
}
