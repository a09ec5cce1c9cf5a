/**
 * gfn_to_pfn_cache: a kernel mapping of one guest page, kept valid against the host mm.
 *
 * Stands for virt/kvm/pfncache.c of 6.12 and 7.2. A user does
 *
 *     read_lock(gpc->lock)
 *     if kvm_gpc_check(): use khva
 *     read_unlock(gpc->lock)                 and kvm_gpc_refresh() when the check fails
 *
 * What keeps `valid` honest while a refresh looks a frame up without gpc->lock is the protocol against invalidation: gpc-protocols.ts has
 * Linux's and those that were proposed.
 *
 * Fields are protected by gpc->lock (written with it held for write); `valid` is always written marked, because one design looks at it
 * without the lock. refresh_lock serializes refreshes. Not modelled: irq-off variants of the locks (no interrupt handler takes them here),
 * kmap of frames outside the direct map (khva is always the direct map's address).
 */
import { load, type Steps, Struct, store, u32, u53, type View } from "../engine/index.ts";
import {
  assertHeld,
  Mutex,
  mutexLock,
  mutexUnlock,
  putPage,
  RwLock,
  spinLock,
  spinUnlock,
  writeLock,
  writeUnlock,
} from "../kernel/index.ts";
import { type Gpa, gpaToGfn, type Hva, PAGE_SIZE, type Pfn, pfnToHpa } from "../machine/index.ts";
import { gpcProtocol } from "./gpc-protocols.ts";
import type { Kvm } from "./kvm.ts";
import { gfnToHva, gfnToMemslot, kvmMemslots } from "./memslots.ts";
import { KVM_PFN_ERR_FAULT } from "./page-fault.ts";

/** No address: what KVM_HVA_ERR_BAD and INVALID_GPA are here. */
const INVALID_ADDRESS = 2 ** 52;

const FIELDS = {
  generation: u53,
  gpa: u53,
  uhva: u53,
  khva: u53,
  pfn: u53,
  active: u32,
  valid: u32,
  needs_invalidation: u32,
};
const GPC = new Struct("gfn_to_pfn_cache", FIELDS);

export class GfnToPfnCache {
  readonly kvm: Kvm;
  readonly addr: number;
  readonly fields: View<typeof FIELDS>;
  readonly lock: RwLock;
  readonly refreshLock: Mutex;

  /** kvm_gpc_init(). Set-up only. */
  constructor(kvm: Kvm, name = "gpc") {
    this.kvm = kvm;
    this.fields = GPC.allocate(kvm.world, name);
    this.addr = this.fields.addr;
    this.fields.gpa.value = INVALID_ADDRESS;
    this.fields.uhva.value = INVALID_ADDRESS;
    this.fields.pfn.value = KVM_PFN_ERR_FAULT;
    this.lock = new RwLock(kvm.world, `${name}->lock`);
    this.refreshLock = new Mutex(kvm.world, `${name}->refresh_lock`);
    kvm.gpcs.register(this);
  }
}

/** What a cache is of: a guest-physical address, or a host-virtual one (kvm_gpc_activate_hva()). */
export type GpcTarget = { readonly gpa: Gpa } | { readonly uhva: Hva };

/** kvm_gpc_activate(), kvm_gpc_activate_hva(): false when the page cannot be had. */
export function* kvmGpcActivate(gpc: GfnToPfnCache, target: GpcTarget): Steps<boolean> {
  const { kvm } = gpc;
  yield* mutexLock(gpc.refreshLock);
  yield* spinLock(kvm.gpcs.lock);
  kvm.gpcs.add(gpc);
  yield* spinUnlock(kvm.gpcs.lock);
  // Active only once it is on the list: from here on a refresh may set `valid`, and an invalidation must find it.
  yield* writeLock(gpc.lock);
  gpc.fields.active.value = 1;
  yield* writeUnlock(gpc.lock);
  const ok = yield* refreshLocked(gpc, target);
  yield* mutexUnlock(gpc.refreshLock);
  return ok;
}

/** Nobody but who activates it may use it or make it valid: it may be on no list by now. */
function isInactive({ fields, kvm }: GfnToPfnCache): boolean {
  return fields.active.value === 0 && !kvm.lacks("gpc-refresh-while-inactive");
}

/** kvm_gpc_check(), with gpc->lock held: may khva be used? */
export function* kvmGpcCheck(gpc: GfnToPfnCache): Steps<boolean> {
  const { fields, kvm } = gpc;
  assertHeld(gpc.lock);
  if (isInactive(gpc)) return false;
  if (fields.gpa.value !== INVALID_ADDRESS) {
    const slots = yield* kvmMemslots(kvm.memslots);
    if (fields.generation.value !== (yield* load(slots.generation))) return false;
  }
  if (fields.uhva.value === INVALID_ADDRESS) return false;
  return fields.valid.value !== 0;
}

/** kvm_gpc_refresh(): false when the page cannot be had. */
export function* kvmGpcRefresh(gpc: GfnToPfnCache): Steps<boolean> {
  yield* mutexLock(gpc.refreshLock);
  const ok = yield* refreshLocked(gpc, null);
  yield* mutexUnlock(gpc.refreshLock);
  return ok;
}

/** kvm_gpc_deactivate() */
export function* kvmGpcDeactivate(gpc: GfnToPfnCache): Steps<void> {
  const { fields, kvm } = gpc;
  yield* mutexLock(gpc.refreshLock);
  yield* writeLock(gpc.lock);
  const wasActive = fields.active.value !== 0;
  fields.active.value = 0;
  yield* store(fields.valid, 0);
  fields.khva.value = 0;
  fields.pfn.value = KVM_PFN_ERR_FAULT;
  yield* writeUnlock(gpc.lock);
  if (wasActive) {
    yield* spinLock(kvm.gpcs.lock);
    kvm.gpcs.remove(gpc);
    yield* spinUnlock(kvm.gpcs.lock);
  }
  yield* mutexUnlock(gpc.refreshLock);
}

/** __kvm_gpc_refresh(), with refresh_lock held. `target` null: what the cache is of already. */
function* refreshLocked(gpc: GfnToPfnCache, target: GpcTarget | null): Steps<boolean> {
  const { fields } = gpc;
  yield* writeLock(gpc.lock);
  if (isInactive(gpc)) {
    yield* writeUnlock(gpc.lock);
    return false;
  }
  const oldUhva = fields.uhva.value;
  const resolved = yield* resolveUhva(gpc, target);
  // A new host address, or a mapping that was invalidated, needs the frame looked up again.
  const stale = fields.valid.value === 0 || fields.uhva.value !== oldUhva;
  const ok = resolved && (!stale || (yield* gpcProtocol(gpc.kvm.variants.gpc).hvaToPfnRetry(gpc)));
  if (!ok) {
    yield* store(fields.valid, 0);
    fields.pfn.value = KVM_PFN_ERR_FAULT;
    fields.khva.value = 0;
  } else if (stale && gpc.kvm.onGpcPublished !== null) {
    yield* gpc.kvm.onGpcPublished(fields.pfn.value as Pfn);
  }
  yield* writeUnlock(gpc.lock);
  return ok;
}

/** Brings gpa, generation and uhva up to date; false when there is no memslot for the address. */
function* resolveUhva(gpc: GfnToPfnCache, target: GpcTarget | null): Steps<boolean> {
  const { fields, kvm } = gpc;
  if (target !== null && "uhva" in target) {
    fields.gpa.value = INVALID_ADDRESS;
    fields.uhva.value = target.uhva - (target.uhva % PAGE_SIZE);
    return true;
  }
  const gpa = (target === null ? fields.gpa.value : target.gpa) as Gpa;
  if (gpa === INVALID_ADDRESS) return fields.uhva.value !== INVALID_ADDRESS;
  const slots = yield* kvmMemslots(kvm.memslots);
  const generation = yield* load(slots.generation);
  const known = fields.gpa.value === gpa && fields.generation.value === generation;
  if (known && fields.uhva.value !== INVALID_ADDRESS) return true;
  fields.gpa.value = gpa;
  fields.generation.value = generation;
  const slot = yield* gfnToMemslot(kvm.memslots, gpaToGfn(gpa));
  fields.uhva.value = slot === null ? INVALID_ADDRESS : gfnToHva(slot, gpaToGfn(gpa));
  return slot !== null;
}

/** The end of a successful look-up: publishes the mapping and gives the frame's reference back. gpc->lock held for write. */
export function* gpcCommit(gpc: GfnToPfnCache, pfn: Pfn, alreadyValid: boolean): Steps<void> {
  const { fields } = gpc;
  fields.pfn.value = pfn;
  fields.khva.value = pfnToHpa(pfn);
  if (!alreadyValid) yield* store(fields.valid, 1);
  // KVM does not pin the page: from here on only the notifier keeps the mapping honest.
  yield* putPage(gpc.kvm.mm.frames, pfn);
}
