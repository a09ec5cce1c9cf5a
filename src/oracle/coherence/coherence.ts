/**
 * Coherence: every access of a guest goes where the architecture allows, from the guest's own tables and from what its CPU may still have of older
 * ones; A and D are set before an entry is used, and never otherwise; every store is there; every page written is in the dirty log.
 *
 *     access      some translation that the CPU may have leads there, and allows it (possible.ts); the host's page is the one that the VMM has
 *     page fault  some translation denies it, or the entry is absent, or has a reserved bit, and the error code says so
 *     memory      what changed in the words that matter is what the guest stored, and A and D of entries on the way to what it accessed
 *     logging     what was written is in the log of its slot until the VMM has fetched it
 *
 * It sees the guest through GuestObserver and its memory through the VMM's eyes; shadow pages it does not know. Sequential runs only: memory is looked
 * at between accesses, and is taken to be still meanwhile. Failures are thrown, as violations.
 */
import { Violation } from "../../engine/index.ts";
import { KVM_MEM_LOG_DIRTY_PAGES } from "../../kvm/memslots.ts";
import type { Vcpu } from "../../kvm/vcpu.ts";
import type { Vm } from "../../kvm/vm.ts";
import {
  type AccessKind,
  bytesOf,
  deliverEvent,
  type GuestAction,
  type GuestEvent,
  type GuestInstruction,
  type GuestObserver,
  type Hpa,
  type ObservedAccess,
  PAGE_SIZE,
  PF_VECTOR,
} from "../../machine/index.ts";
import { type Change, GuestMemory, type Word } from "./guest-memory.ts";
import { type AccessOf, errorCodeOf, isAllowed, type Rights } from "./paging-rules.ts";
import { PossibleTranslations, type Translation } from "./possible.ts";

/** Bits of an entry that accesses set: A, D. */
const ACCESSED = 0x20;
const DIRTY = 0x40;
const PRESENT_ERROR = 1;
const RESERVED_ERROR = 8;

/** Where KVM is known to depart from the manual, and is let. */
export interface Departures {
  /**
   * A page fault makes the CPU forget its address (SDM 4.10.4.1). KVM does so only where the fault says that the page is present, and has no reserved bit
   * (kvm_inject_emulated_page_fault()): a guest that unmaps a page without flushing, and relies on the fault that follows, may see the old page again.
   */
  readonly faultsForgetPresentOnly: boolean;
  /**
   * A write sets D (SDM 4.8). With CR0.WP clear, a supervisor's write to where there is no memory does not, once KVM remembers that the page is MMIO: what it
   * remembers says that writes are allowed, and no walk follows (vcpu_mmio_gva_to_gpa()).
   */
  readonly mmioStaysClean: boolean;
  /**
   * A frame that had no memory gets some. An entry that says MMIO is out of date then; but bringing its table in step gives it the new generation, without a look at the
   * memslots (sync_mmio_spte()), so that stores go to the VMM and not to the memory.
   */
  readonly syncKeepsMmio: boolean;
}

export const KVM_DEPARTURES: Departures = { faultsForgetPresentOnly: true, mmioStaysClean: true, syncKeepsMmio: true };
/** What the manual says, and nothing else. */
export const NO_DEPARTURES: Departures = {
  faultsForgetPresentOnly: false,
  mmioStaysClean: false,
  syncKeepsMmio: false,
};

/** A store whose bytes must be in memory at the next look. */
interface PendingStore {
  readonly place: number;
  readonly bytes: readonly number[];
  /** It may have gone to the VMM instead: {@link Departures.syncKeepsMmio}. */
  readonly isOptional: boolean;
}

/** A page that was written: the log must have one of the frames that the write may have been to. */
interface LoggedWrite {
  readonly gfns: readonly number[];
}

interface Target extends AccessOf {
  readonly gva: number;
}

export class CoherenceOracle {
  readonly memory: GuestMemory;
  readonly cpus: readonly WatchedCpu[];
  readonly vm: Vm;
  readonly departures: Departures;
  /** Accesses judged. */
  judged = 0;
  private readonly stores: PendingStore[] = [];
  private written: LoggedWrite[] = [];
  /** Memslots that were not always there. */
  private readonly newSlots = new Set<number>();

  /** @param entries places of words that are entries of the guest's tables from the start */
  constructor(vm: Vm, entries: readonly number[], departures: Departures = KVM_DEPARTURES) {
    this.vm = vm;
    this.departures = departures;
    this.memory = new GuestMemory(vm.kvm);
    for (const place of entries) this.memory.versionsOf(place - (place % 8));
    this.cpus = vm.vcpus.map((vcpu) => new WatchedCpu(this, vcpu));
  }

  cpu(id: number): WatchedCpu {
    return this.cpus[id] as WatchedCpu;
  }

  // --- memory ------------------------------------------------------------------------------------------------------

  /** Stores are due; whatever else changed must be A and D that somebody's accesses explain. @param cpu whose turn it was */
  lookAround(cpu: WatchedCpu | null): void {
    const stores = this.stores.splice(0);
    const expected = new Map<number, number[]>();
    const optional = new Set<number>();
    for (const { place, bytes, isOptional } of stores) {
      if (isOptional) for (const at of [place, place + bytes.length - 1]) optional.add(at - (at % 8));
      for (const [i, byte] of bytes.entries()) {
        const word = place + i - ((place + i) % 8);
        const all = expected.get(word) ?? bytesOfWord(this.memory.current(word));
        all[(place + i) % 8] = byte;
        expected.set(word, all);
      }
    }
    const before = new Map([...expected].map(([place, bytes]) => [place, wordOfBytes(bytes)]));
    for (const change of this.memory.look()) {
      const base = before.get(change.place) ?? change.old;
      before.delete(change.place);
      if (sameWord(base, change.new)) continue;
      this.explain(cpu, { ...change, old: base });
    }
    for (const [place, word] of before) {
      if (!optional.has(place) && !sameWord(word, this.memory.current(place)))
        fail(
          "memory",
          `a store is lost: ${this.where(place)} should be ${text(word)}, is ${text(this.memory.current(place))}`,
        );
    }
  }

  private explain(cpu: WatchedCpu | null, { place, old, new: word }: Change): void {
    const set = { lo: (word.lo & ~old.lo) >>> 0, hi: (word.hi & ~old.hi) >>> 0 };
    const isCleared = (old.lo & ~word.lo) !== 0 || (old.hi & ~word.hi) !== 0;
    const what = `${this.where(place)} changes from ${text(old)} to ${text(word)}`;
    if (cpu === null || isCleared) fail("memory", `${what}, and nobody stores that`);
    for (const half of [0, 4]) {
      const bits = half === 0 ? set.lo : set.hi;
      if (bits === 0) continue;
      if ((bits & ~(ACCESSED | DIRTY)) !== 0) fail("memory", `${what}, and nobody stores that`);
      const reason = cpu.reasonFor(place + half, (bits & DIRTY) !== 0);
      if (reason !== null) fail("accessed-dirty", `${what}: ${reason}`);
      this.wrote(this.memory.gfnsOf(place));
    }
  }

  /** A store is about to be made to a place. */
  expectStore(place: number, bytes: readonly number[]): void {
    // From now on the words are followed: what they were before is known.
    for (let at = place - (place % 8); at < place + bytes.length; at += 8) this.memory.versionsOf(at);
    this.stores.push({ place, bytes, isOptional: this.mayBeMmio(place) });
  }

  where(place: number): string {
    const [gfn] = this.memory.gfnsOf(place);
    return gfn === undefined
      ? `host 0x${place.toString(16)}`
      : `gpa 0x${(gfn * PAGE_SIZE + (place % PAGE_SIZE)).toString(16)}`;
  }

  /** A memslot has come, or has moved. */
  slotMade(id: number): void {
    this.newSlots.add(id);
  }

  /** KVM may still take the place for MMIO. */
  mayBeMmio(place: number): boolean {
    if (!this.departures.syncKeepsMmio) return false;
    return this.memory.gfnsOf(place).some((gfn) => this.newSlots.has(this.memory.slotOf(gfn)?.id ?? -1));
  }

  // --- operations of the host --------------------------------------------------------------------------------------

  /** The VMM or the host has done something. @param isThrownAway places that it has thrown away, or stored to */
  hostActed(isThrownAway: (place: number) => boolean): void {
    this.memory.forgetSlots();
    this.memory.forget(isThrownAway);
    const [change] = this.memory.look();
    if (change !== undefined)
      fail(
        "memory",
        `the host has changed ${this.where(change.place)} from ${text(change.old)} to ${text(change.new)}`,
      );
    this.checkLog();
  }

  // --- dirty logging -------------------------------------------------------------------------------------------------

  /** One of the frames is being written. */
  wrote(gfns: readonly number[]): void {
    this.written.push({ gfns });
  }

  /** Everything written since the log was fetched is in it. */
  checkLog(): void {
    this.memory.forgetSlots();
    const { memory } = this;
    this.written = this.written.filter(({ gfns }) => {
      const slots = gfns.map((gfn) => memory.slotOf(gfn));
      // Only what is logged by every slot that it may have gone through can be missed.
      return slots.length > 0 && slots.every((slot) => slot !== null && isLogged(slot.flags) && slot.dirtyBitmap !== 0);
    });
    for (const { gfns } of this.written) {
      if (!gfns.some((gfn) => this.isInLog(gfn)))
        fail("dirty-log", `gfn 0x${(gfns[0] as number).toString(16)} was written, and is not in the log`);
    }
  }

  private isInLog(gfn: number): boolean {
    const slot = this.memory.slotOf(gfn);
    if (slot === null) return false;
    const index = gfn - slot.baseGfn;
    const word = this.vm.world.heap.read(slot.dirtyBitmap + 4 * Math.floor(index / 32), 4);
    return ((word >>> (index % 32)) & 1) !== 0;
  }

  /** The VMM was given a log: it has what was written, which it forgets where `clears`. @param frames as indexes in the slot */
  fetchedLog(id: number, frames: ReadonlySet<number>, clears: boolean): void {
    const { memory } = this;
    const slot = memory.slots().find((each) => each.id === id);
    if (slot === undefined) return;
    const isOf = (gfn: number): boolean => memory.slotOf(gfn) === slot;
    for (const { gfns } of this.written) {
      if (gfns.every(isOf) && !gfns.some((gfn) => frames.has(gfn - slot.baseGfn)))
        fail(
          "dirty-log",
          `gfn 0x${(gfns[0] as number).toString(16)} was written, and the log that was fetched does not say so`,
        );
    }
    if (clears) this.forgetWrites(id, 0, slot.npages);
  }

  /** Bits of the log are cleared: what they stood for is the VMM's to know. */
  forgetWrites(id: number, first: number, pages: number): void {
    const slot = this.memory.slots().find((each) => each.id === id);
    if (slot === undefined) return;
    const from = slot.baseGfn + first;
    this.written = this.written.filter(({ gfns }) => !gfns.some((gfn) => gfn >= from && gfn < from + pages));
  }

  /** Logging begins or ends, or a slot comes or goes. */
  forgetAllWrites(): void {
    this.written = [];
  }
}

function isLogged(flags: number): boolean {
  return (flags & KVM_MEM_LOG_DIRTY_PAGES) !== 0;
}

/** One vCPU as the oracle sees it. */
export class WatchedCpu implements GuestObserver {
  readonly vcpu: Vcpu;
  readonly possible: PossibleTranslations;
  private readonly oracle: CoherenceOracle;
  /** What the operation at hand may access. */
  private targets: readonly Target[] = [];

  constructor(oracle: CoherenceOracle, vcpu: Vcpu) {
    this.oracle = oracle;
    this.vcpu = vcpu;
    this.possible = new PossibleTranslations(oracle.memory, vcpu.guest.mode);
    vcpu.guest.observer = this;
  }

  /** The vCPU is about to run these instructions. */
  begins(code: readonly GuestInstruction[]): void {
    this.oracle.lookAround(this);
    const { handler } = this.vcpu.guest;
    const targets = [...code, ...(handler?.code ?? [])].flatMap(targetsOf);
    if (handler !== null) {
      const event: GuestEvent = { vector: PF_VECTOR, errorCode: 0, address: 0 as GuestEvent["address"] };
      for (const { gva, kind } of deliverEvent(handler.tables, event, 3)) targets.push({ gva, kind, user: false });
    }
    this.targets = targets;
  }

  /** The vCPU is back with the VMM. */
  ends(): void {
    this.oracle.lookAround(this);
    this.oracle.checkLog();
  }

  // --- what the guest does -----------------------------------------------------------------------------------------

  accessed(access: ObservedAccess, hpa: Hpa): void {
    const { oracle } = this;
    const { memory } = oracle;
    oracle.lookAround(this);
    oracle.judged++;
    const frame = Math.floor(hpa / PAGE_SIZE);
    const allowed = this.allowed(access);
    const there = allowed.filter(({ gpa }) => {
      const place = memory.placeOf(gpa);
      return place !== null && memory.frameAt(place) === frame && place % PAGE_SIZE === hpa % PAGE_SIZE;
    });
    const [first] = there;
    if (first === undefined)
      fail(
        "coherence",
        `${this.saying(access)} reaches host frame 0x${frame.toString(16)}; ${this.expectation(access)}`,
      );
    const place = memory.placeOf(first.gpa) as number;
    if (access.kind !== "write") return;
    if (!memory.isWritableAt(place))
      fail("isolation", `${this.saying(access)} writes to a page that the VMM may not write`);
    oracle.wrote([...new Set(there.map(({ gpa }) => Math.floor(gpa / PAGE_SIZE)))]);
    this.expect(access, place);
  }

  emulated(access: ObservedAccess, gpa: number): void {
    const { oracle } = this;
    oracle.lookAround(this);
    oracle.judged++;
    const place = oracle.memory.placeOf(gpa);
    const staysClean = place === null && oracle.departures.mmioStaysClean && !this.possible.rules.wp && !access.user;
    const judged: ObservedAccess = staysClean ? { ...access, kind: "read" } : access;
    if (!this.allowed(judged).some((each) => each.gpa === gpa))
      fail(
        "coherence",
        `${this.saying(access)}, emulated, goes to gpa 0x${gpa.toString(16)}; ${this.expectation(access)}`,
      );
    if (access.kind !== "write" || place === null) return;
    if (!oracle.mayBeMmio(place)) oracle.wrote([Math.floor(gpa / PAGE_SIZE)]);
    this.expect(access, place);
  }

  retired(action: GuestAction): void {
    this.oracle.lookAround(this);
    this.possible.retired(action);
  }

  faulted({ address, errorCode }: GuestEvent): void {
    this.oracle.lookAround(this);
    this.oracle.judged++;
    const targets = this.targets.filter(({ gva }) => gva === address);
    const { translations, absent, reserved } = this.possible.of(address);
    const { rules } = this.possible;
    const isJust = targets.some((target) => {
      const bits = errorCodeOf(rules, target);
      if (absent && errorCode === bits) return true;
      if (reserved && errorCode === bits + PRESENT_ERROR + RESERVED_ERROR) return true;
      return errorCode === bits + PRESENT_ERROR && translations.some((each) => !isAllowed(rules, each, target));
    });
    const says = `a page fault at 0x${address.toString(16)} says 0x${errorCode.toString(16)}`;
    if (!isJust) fail("coherence", `vCPU ${this.vcpu.id}: ${says}; ${this.expectationOf(address)}`);
    const saysPresent = errorCode % 2 === PRESENT_ERROR && (errorCode & RESERVED_ERROR) === 0;
    if (saysPresent || !this.oracle.departures.faultsForgetPresentOnly) this.possible.faulted(address);
  }

  /** Something that the operation at hand accesses may be in no memslot. */
  mayLeaveMemory(): boolean {
    return this.targets.some(({ gva }) =>
      this.possible.of(gva).translations.some(({ gpa }) => this.oracle.memory.placeOf(gpa) === null),
    );
  }

  // --- judging -----------------------------------------------------------------------------------------------------

  /** The translations that allow the access, and need no more flags set. */
  private allowed(access: AccessOf & { readonly gva: number }): Translation[] {
    return this.possible.of(access.gva).translations.filter((each) => this.mayUse(each, access));
  }

  mayUse(translation: Translation, access: AccessOf): boolean {
    if (!translation.accessed || (access.kind === "write" && !translation.dirty)) return false;
    return isAllowed(this.possible.rules, translation, access);
  }

  private expect({ gva, size, store }: ObservedAccess, place: number): void {
    if (store === null) return;
    const { memory } = this.oracle;
    let { value } = store;
    if (store.adds) {
      if (gva % size !== 0) return;
      const now = bytesOfWord(memory.current(place - (place % 8))).slice(place % 8, (place % 8) + size);
      value = sumOf(now, value);
    }
    this.oracle.expectStore(place, bytesOf(value, size));
  }

  /** Why an access of the operation at hand does not explain A, or D, in the entry at the place; null when one does. */
  reasonFor(place: number, dirty: boolean): string | null {
    const { rules } = this.possible;
    let isOnTheWay = false;
    for (const target of this.targets) {
      for (const entry of this.possible.entriesNow(target.gva)) {
        if (entry.place !== place) continue;
        isOnTheWay = true;
        if (!dirty || (entry.isPage && target.kind === "write" && isAllowed(rules, entry.rights as Rights, target)))
          return null;
      }
    }
    return isOnTheWay ? "D is set, and nobody writes there" : "no access goes that way";
  }

  private saying({ gva, kind, user }: ObservedAccess): string {
    return `vCPU ${this.vcpu.id}: a ${kind} by the ${user ? "user" : "supervisor"} of 0x${gva.toString(16)}`;
  }

  private expectation(access: ObservedAccess): string {
    return `${this.expectationOf(access.gva)}, of which ${this.allowed(access).length} allow it`;
  }

  expectationOf(gva: number): string {
    const { translations, absent, reserved } = this.possible.of(gva);
    const { memory } = this.oracle;
    const known = translations.map(({ gpa, writable, user, executable, dirty, accessed }) => {
      const place = memory.placeOf(gpa);
      const frame = place === null ? null : memory.frameAt(place);
      const letters = `${writable ? "w" : ""}${user ? "u" : ""}${executable ? "x" : ""}${accessed ? "a" : ""}${dirty ? "d" : ""}`;
      return `gpa 0x${gpa.toString(16)} ${letters} (frame ${frame === null ? "none" : `0x${frame.toString(16)}`})`;
    });
    const all = [...new Set(known), ...(absent ? ["absent"] : []), ...(reserved ? ["reserved bit"] : [])];
    return `the tables allow ${all.length === 0 ? "nothing" : all.join(", ")}`;
  }
}

function targetsOf({ rip, cpl, action }: GuestInstruction): Target[] {
  const user = cpl === 3;
  const targets: Target[] = rip === null ? [] : [{ gva: rip, kind: "exec", user }];
  if (action.kind !== "access") return targets;
  const kind: AccessKind = action.access === "read" ? "read" : "write";
  for (const gva of new Set([action.gva, action.gva + action.size - 1])) targets.push({ gva, kind, user });
  return targets;
}

function fail(property: string, message: string): never {
  throw new Violation(property, message);
}

// --- words -----------------------------------------------------------------------------------------------------------

function bytesOfWord(word: Word): number[] {
  return bytesOf(word, 8);
}

function wordOfBytes(bytes: readonly number[]): Word {
  const half = (from: number): number => bytes.slice(from, from + 4).reduce((sum, byte, i) => sum + byte * 256 ** i, 0);
  return { lo: half(0), hi: half(4) };
}

function sameWord(a: Word, b: Word): boolean {
  return a.lo === b.lo && a.hi === b.hi;
}

function text({ lo, hi }: Word): string {
  return `0x${hi.toString(16)}_${lo.toString(16).padStart(8, "0")}`;
}

/** The sum of a number of as many bytes and a value, as a value. */
function sumOf(bytes: readonly number[], { lo, hi }: Word): Word {
  const all = bytesOf({ lo, hi }, bytes.length);
  let carry = 0;
  const sum = bytes.map((byte, i) => {
    const each = byte + (all[i] as number) + carry;
    carry = each >>> 8;
    return each & 0xff;
  });
  return wordOfBytes([...sum, ...Array.from({ length: 8 - sum.length }, () => 0)]);
}
