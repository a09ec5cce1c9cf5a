/**
 * What there is to see of a world between two steps of a replay: CPUs, store buffers, locks, RCU, TLBs, page tables, caches of frames.
 *
 * Everything is found in the program's own state, whatever its shape: the locks, the KVM, the VM that it holds. Nothing is accessed: it looks at memory as
 * the other CPUs see it, so what is still in a store buffer shows there only.
 */
import { type Cell, type Execution, OpKind, type Task, type U64, World } from "../engine/index.ts";
import { Current, Mutex, Rcu, RwLock, SpinLock, Srcu } from "../kernel/index.ts";
import { GfnToPfnCache } from "../kvm/gfn-to-pfn-cache.ts";
import { Kvm } from "../kvm/kvm.ts";
import {
  IN_GUEST_MODE,
  KVM_REQ_CLOCK_UPDATE,
  KVM_REQ_DIRTY_RING_SOFT_FULL,
  KVM_REQ_MMU_FREE_OBSOLETE_ROOTS,
  KVM_REQ_MMU_SYNC,
  KVM_REQ_TLB_FLUSH,
  KVM_REQ_TLB_FLUSH_CURRENT,
  KVM_REQ_TLB_FLUSH_GUEST,
  OUTSIDE_GUEST_MODE,
  READING_SHADOW_PAGE_TABLES,
} from "../kvm/requests.ts";
import type { Vcpu } from "../kvm/vcpu.ts";
import { Vm } from "../kvm/vm.ts";
import { hostTableRows, tableRows } from "./table-views.ts";

/** Rows of one kind: what it is, and how it is. */
export type Rows = Readonly<Record<string, string>>;
/** By heading. What has no rows at a step is not there. */
export type Views = Readonly<Record<string, Rows>>;

type Lock = SpinLock | RwLock | Mutex;

/** What a program's state holds. */
interface Parts {
  readonly locks: Lock[];
  readonly vms: Vm[];
  readonly kvms: Kvm[];
  readonly gpcs: GfnToPfnCache[];
  readonly rcus: Rcu[];
  readonly srcus: Srcu[];
}

/** Looks at one world again and again. */
export class Viewer {
  private readonly parts: Parts;
  constructor(state: unknown) {
    this.parts = partsOf(state);
  }

  views(execution: Execution): Views {
    const { locks, vms, kvms, gpcs, rcus, srcus } = this.parts;
    const all: Record<string, Rows> = {
      "Store buffers": bufferRows(execution),
      CPUs: Object.assign({}, ...vms.map(cpuRows)),
      Locks: lockRows(execution, locks),
      RCU: { ...Object.assign({}, ...rcus.map(rcuRows)), ...Object.assign({}, ...srcus.map(srcuRows)) },
      KVM: Object.assign({}, ...kvms.map(kvmRows)),
      gfn_to_pfn_cache: Object.assign({}, ...gpcs.map(gpcRows)),
      TLBs: Object.assign({}, ...vms.map(tlbRows)),
      "Page tables": Object.assign({}, ...vms.map((vm) => tableRows(vm))),
      "Host page tables": Object.assign({}, ...kvms.map((kvm) => hostTableRows(kvm.mm))),
    };
    return Object.fromEntries(Object.entries(all).filter(([, rows]) => Object.keys(rows).length > 0));
  }
}

// --- what there is ---------------------------------------------------------------------------------------------------

/** Objects looked at before it is given up: what a study keeps beside its world may be large. */
const OBJECTS_MAX = 20_000;

function partsOf(state: unknown): Parts {
  const parts: Parts = { locks: [], vms: [], kvms: [], gpcs: [], rcus: [], srcus: [] };
  const seen = new Set<object>();
  const queue: unknown[] = [state];
  for (let next = queue.shift(); seen.size < OBJECTS_MAX; next = queue.shift()) {
    if (isObject(next) && !seen.has(next)) {
      seen.add(next);
      sort(next, parts);
      if (!(next instanceof World)) queue.push(...childrenOf(next));
    } else if (queue.length === 0) break;
  }
  return parts;
}

function isObject(value: unknown): value is object {
  return typeof value === "object" && value !== null && !ArrayBuffer.isView(value);
}

function childrenOf(object: object): unknown[] {
  if (object instanceof Map) return [...object.values()];
  if (object instanceof Set) return [...object];
  return Object.values(object);
}

function sort(object: object, { locks, vms, kvms, gpcs, rcus, srcus }: Parts): void {
  if (object instanceof SpinLock || object instanceof RwLock || object instanceof Mutex) locks.push(object);
  else if (object instanceof Vm) vms.push(object);
  else if (object instanceof Kvm) kvms.push(object);
  else if (object instanceof GfnToPfnCache) gpcs.push(object);
  else if (object instanceof Rcu) rcus.push(object);
  else if (object instanceof Srcu) srcus.push(object);
}

// --- CPUs ------------------------------------------------------------------------------------------------------------

function bufferRows({ world, buffers }: Execution): Rows {
  const rows: Record<string, string> = {};
  for (const [cpu, buffer] of buffers.entries()) {
    const stores = buffer.waiting.map(({ addr, lo, hi }) => `${world.nameOf(addr)} = ${shown({ lo, hi })}`);
    if (stores.length > 0) rows[`CPU ${cpu}`] = stores.join("; ");
  }
  return rows;
}

const SMALL = 4096;

function shown({ lo, hi }: U64): string {
  const value = hi * 2 ** 32 + lo;
  return value < SMALL ? String(value) : `0x${(BigInt(hi) * 2n ** 32n + BigInt(lo)).toString(16)}`;
}

const MODES: Readonly<Record<number, string>> = {
  [OUTSIDE_GUEST_MODE]: "outside the guest",
  [IN_GUEST_MODE]: "in the guest",
  [READING_SHADOW_PAGE_TABLES]: "reading shadow page tables",
};

const REQUESTS: readonly (readonly [bit: number, name: string])[] = [
  [KVM_REQ_TLB_FLUSH, "TLB_FLUSH"],
  [KVM_REQ_MMU_FREE_OBSOLETE_ROOTS, "MMU_FREE_OBSOLETE_ROOTS"],
  [KVM_REQ_CLOCK_UPDATE, "CLOCK_UPDATE"],
  [KVM_REQ_DIRTY_RING_SOFT_FULL, "DIRTY_RING_SOFT_FULL"],
  [KVM_REQ_MMU_SYNC, "MMU_SYNC"],
  [KVM_REQ_TLB_FLUSH_CURRENT, "TLB_FLUSH_CURRENT"],
  [KVM_REQ_TLB_FLUSH_GUEST, "TLB_FLUSH_GUEST"],
];

function cpuRows({ vcpus, interrupts, world }: Vm): Rows {
  const rows: Record<string, string> = {};
  for (const vcpu of vcpus) {
    const mode = MODES[vcpu.mode.peek()] ?? "leaving the guest";
    const requests = bitNames(vcpu.requests.peek(), REQUESTS);
    rows[`vcpu${vcpu.id}`] = [mode, ...requests.map((name) => `KVM_REQ_${name}`)].join(", ");
  }
  for (let cpu = 0; cpu < interrupts.cpus; cpu++) {
    const masked = interrupts.maskedOf(cpu).peek() !== 0;
    const senders = bitsOf(interrupts.pendingOf(cpu).peek()).map((from) => nameOfCpu(world, from));
    const what = [masked ? "interrupts off" : "", senders.length > 0 ? `IPI pending from ${senders.join(", ")}` : ""];
    if (what.some(Boolean)) rows[nameOfCpu(world, cpu)] = what.filter(Boolean).join(", ");
  }
  return rows;
}

function nameOfCpu(world: World, cpu: number): string {
  const task = world.tasks[cpu];
  return task === undefined ? `CPU ${cpu}` : `CPU ${cpu} (${task.name})`;
}

function bitsOf(value: number): number[] {
  return Array.from({ length: 32 }, (_, bit) => bit).filter((bit) => ((value >>> bit) & 1) === 1);
}

function bitNames(value: number, names: readonly (readonly [number, string])[]): string[] {
  return names.filter(([bit]) => (value & bit) !== 0).map(([, name]) => name);
}

// --- Linux -----------------------------------------------------------------------------------------------------------

/** Locks that somebody has. */
function lockRows({ world, buffers }: Execution, locks: readonly Lock[]): Rows {
  const rows: Record<string, string> = {};
  for (const lock of locks) {
    const value = lock.cell.peek();
    if (value === 0) continue;
    const asking = world.tasks.filter((task) => asksFor(task, lock.addr));
    const holders = world.tasks
      .filter((task) => !asking.includes(task) && hasStill(task, lock))
      .map(({ name }) => name);
    const leaving = world.tasks.filter(({ lane }) => buffers[lane]?.waiting.some(({ addr }) => addr === lock.addr));
    const how = lock instanceof RwLock ? (value < WRITER ? " for read" : " for write") : "";
    const parts = [
      holders.length > 0 ? `held${how} by ${holders.join(", ")}` : "",
      ...leaving.map(({ name }) => `released by ${name}, in its store buffer still`),
      asking.length > 0 ? `${asking.map(({ name }) => name).join(", ")} next` : "",
    ].filter((part) => part !== "");
    rows[lock.name] = parts.join("; ") || `held${how}`;
  }
  return rows;
}

const WRITER = 1 << 20;

/** A thread is noted as a holder from when it asks until it asks to release: that is a step of its own, and until it is taken the thread has it. */
function hasStill({ started, finished, op, local }: Task, lock: Lock): boolean {
  if (local instanceof Current && local.holds(lock)) return true;
  return started && !finished && op.addr === lock.addr;
}

function asksFor({ started, finished, op }: Task, addr: number): boolean {
  return started && !finished && op.addr === addr && (op.kind === OpKind.Acquire || op.kind === OpKind.AcquireShared);
}

function rcuRows(rcu: Rcu): Rows {
  const rows: Record<string, string> = {};
  for (const [lane, begun] of rcu.begun.entries()) {
    const ended = (rcu.ended[lane] as Cell).peek();
    if (begun.peek() !== ended) rows[nameOfCpu(rcu.world, lane)] = "in a read-side section";
  }
  const pending = rcu.pendingObjects().map((addr) => rcu.world.nameOf(addr).replace(/->.*$/, ""));
  if (pending.length > 0) rows["call_rcu()"] = `waiting for a grace period: ${pending.join(", ")}`;
  return rows;
}

function srcuRows(srcu: Srcu): Rows {
  const rows: Record<string, string> = {};
  for (const [lane, open] of srcu.open.entries()) {
    if (open.peek() > 0) rows[`${srcu.name}: ${nameOfCpu(srcu.world, lane)}`] = "in a read-side section";
  }
  return rows;
}

// --- KVM -------------------------------------------------------------------------------------------------------------

function kvmRows(kvm: Kvm): Rows {
  const { mmuInvalidateInProgress, mmuInvalidateSeq, memslots } = kvm;
  const rows: Record<string, string> = { mmu_invalidate_seq: String(mmuInvalidateSeq.peek()) };
  const inProgress = mmuInvalidateInProgress.peek();
  if (inProgress > 0) {
    const [start, end] = [kvm.mmuInvalidateRangeStart.peek(), kvm.mmuInvalidateRangeEnd.peek()];
    rows["mmu_invalidate_in_progress"] = `${inProgress}, of gfns ${start.toString(16)} to ${end.toString(16)}`;
  }
  const active = memslots.mnActiveInvalidateCount.peek();
  if (active > 0) rows["mn_active_invalidate_count"] = String(active);
  return rows;
}

function gpcRows({ fields }: GfnToPfnCache): Rows {
  const { active, valid, gpa, uhva, pfn, khva, generation, needs_invalidation } = fields;
  // Made with each vCPU, and never used.
  if (active.peek() === 0 && uhva.peek() >= NO_ADDRESS) return {};
  const rows: Record<string, string> = {};
  for (const field of [active, valid, gpa, uhva, pfn, khva, generation, needs_invalidation]) {
    const value = field.peek();
    rows[field.name] = value >= NO_ADDRESS ? "none" : shownNumber(value);
  }
  return rows;
}

/** An address or frame that is none: errors are above all that there are. */
const NO_ADDRESS = 2 ** 52;

function shownNumber(value: number): string {
  return value >= SMALL ? `0x${value.toString(16)}` : String(value);
}

function tlbRows({ vcpus }: Vm): Rows {
  return Object.assign({}, ...vcpus.map(tlbOf));
}

const SIZES = ["", "4K", "2M", "1G"];

function tlbOf({ id, guest }: Vcpu): Rows {
  const numbers = guest.tlb.contents();
  const rows: Record<string, string> = {};
  for (let i = 0; i < numbers.length; i += 4) {
    const [page = 0, level = 0, base = 0, rights = 0] = numbers.slice(i, i + 4);
    const names = ["r", (rights & 1) !== 0 ? "w" : "-", (rights & 2) !== 0 ? "x" : "-", (rights & 4) !== 0 ? "u" : "-"];
    rows[`vcpu${id}: page ${page.toString(16)}, ${SIZES[level]}`] =
      `frame ${Math.floor(base / 4096).toString(16)}: ${names.join("")}`;
  }
  return rows;
}
