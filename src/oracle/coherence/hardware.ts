/**
 * What a vCPU's hardware could use without asking anybody: the shadow tables under its root, and its TLB. Each translation in them must be one that the
 * architecture allows (possible.ts), of the VMM's own page, and writable only where the VMM may write.
 *
 * Looks at more than a guest's accesses do: a mistake is seen when it is made, and not only when the guest happens to go there. Tables that are about
 * to be brought in step, or let go, before the vCPU may run are left out, and so is a TLB that is about to be flushed.
 */
import { Violation } from "../../engine/index.ts";
import { KVM_REQ_TLB_FLUSH, KVM_REQ_TLB_FLUSH_CURRENT } from "../../kvm/requests.ts";
import { hardwareLevels } from "../../kvm/shadow/roots.ts";
import type { ShadowMmu } from "../../kvm/shadow/shadow-mmu.ts";
import { type AccessKind, PAGE_SIZE } from "../../machine/index.ts";
import type { WatchedCpu } from "./coherence.ts";
import type { GuestMemory } from "./guest-memory.ts";
import { isAllowed } from "./paging-rules.ts";

/** One translation of the hardware's. Addresses in bytes. */
interface HardwareLeaf {
  readonly where: "shadow tables" | "TLB";
  readonly gva: number;
  readonly bytes: number;
  readonly hpa: number;
  readonly writable: boolean;
  readonly user: boolean;
  readonly executable: boolean;
}

const FLUSHES = KVM_REQ_TLB_FLUSH | KVM_REQ_TLB_FLUSH_CURRENT;
/** Entries of tables with 512 of them: bytes that one of the level covers. */
const BYTES = [0, PAGE_SIZE, PAGE_SIZE * 512, PAGE_SIZE * 512 ** 2, PAGE_SIZE * 512 ** 3, PAGE_SIZE * 512 ** 4];
const ACCESSES: readonly { readonly kind: AccessKind; readonly user: boolean }[] = [
  { kind: "read", user: false },
  { kind: "write", user: false },
  { kind: "exec", user: false },
  { kind: "read", user: true },
  { kind: "write", user: true },
  { kind: "exec", user: true },
];

/** @throws Violation for the first translation that must not be there. @returns how many were looked at */
export function checkHardware(shadow: ShadowMmu, memory: GuestMemory, cpu: WatchedCpu): number {
  const { vcpu } = cpu;
  const requests = vcpu.requests.peek();
  let checked = 0;
  if ((requests & ~FLUSHES) === 0 && vcpu.rootHpa.peek() !== 0) {
    for (const leaf of shadowLeaves(shadow, cpu)) {
      checkLeaf(memory, cpu, leaf);
      checked++;
    }
  }
  if (requests === 0 && !vcpu.guest.forgetsBetweenStays) {
    for (const leaf of tlbLeaves(cpu)) {
      checkLeaf(memory, cpu, leaf);
      checked++;
    }
  }
  return checked;
}

/** The leaves that a walk from the vCPU's root can get to, entry by entry as the hardware reads them. */
function* shadowLeaves(shadow: ShadowMmu, { vcpu }: WatchedCpu): Generator<HardwareLeaf> {
  const levels = hardwareLevels(vcpu, shadow);
  const { heap } = shadow.world;
  const all = { writable: true, user: true, executable: true };
  yield* below(vcpu.rootHpa.peek(), levels, 0, all);

  function* below(
    table: number,
    level: number,
    base: number,
    rights: Pick<HardwareLeaf, "writable" | "user" | "executable">,
  ): Generator<HardwareLeaf> {
    const isPdpt = levels === 3 && level === 3;
    const bytes = BYTES[level] as number;
    for (let i = 0; i < (isPdpt ? 4 : 512); i++) {
      const lo = heap.read(table + 8 * i, 8);
      if ((lo & 1) === 0) continue;
      const { high } = heap;
      // Bits above the physical address: an entry that stands for MMIO.
      if ((high & 0x000f_ff00) !== 0) continue;
      const frame = ((high & 0xff) * 2 ** 32 + (lo >>> 0)) / PAGE_SIZE;
      const hpa = Math.floor(frame) * PAGE_SIZE;
      const mine = isPdpt
        ? rights
        : {
            writable: rights.writable && (lo & 2) !== 0,
            user: rights.user && (lo & 4) !== 0,
            executable: rights.executable && high >>> 31 === 0,
          };
      const gva = base + i * bytes;
      const isLeaf = level === 1 || (!isPdpt && (lo & 0x80) !== 0);
      if (isLeaf) yield { where: "shadow tables", gva, bytes, hpa: hpa - (hpa % bytes), ...mine };
      else yield* below(hpa, level - 1, gva, mine);
    }
  }
}

function* tlbLeaves({ vcpu }: WatchedCpu): Generator<HardwareLeaf> {
  const numbers = vcpu.guest.tlb.contents();
  for (let i = 0; i < numbers.length; i += 4) {
    const [page, level, hpa, rights] = numbers.slice(i, i + 4) as [number, number, number, number];
    const bytes = BYTES[level] as number;
    const [writable, executable, user] = [1, 2, 4].map((bit) => (rights & bit) !== 0) as [boolean, boolean, boolean];
    yield { where: "TLB", gva: page * bytes, bytes, hpa, writable, user, executable };
  }
}

function checkLeaf(memory: GuestMemory, cpu: WatchedCpu, leaf: HardwareLeaf): void {
  // The ends and the middle of a large page stand for all of it.
  const offsets = new Set([0, PAGE_SIZE * Math.floor(leaf.bytes / PAGE_SIZE / 2), leaf.bytes - PAGE_SIZE]);
  for (const offset of offsets) checkPage(memory, cpu, leaf, offset);
}

function checkPage(memory: GuestMemory, cpu: WatchedCpu, leaf: HardwareLeaf, offset: number): void {
  const { possible, vcpu } = cpu;
  const { rules } = possible;
  const gva = leaf.gva + offset;
  const frame = Math.floor((leaf.hpa + offset) / PAGE_SIZE);
  // WP is on, whatever the guest has: KVM emulates that it is off.
  const hardware = { ...rules, wp: true };
  const there = possible.of(gva).translations.filter(({ gpa }) => {
    const place = memory.placeOf(gpa);
    return place !== null && memory.frameAt(place) === frame;
  });
  const what = `vCPU ${vcpu.id}: ${leaf.where}: 0x${gva.toString(16)} -> host frame 0x${frame.toString(16)}`;
  for (const access of ACCESSES) {
    if (!isAllowed(hardware, leaf, access)) continue;
    if (there.some((each) => cpu.mayUse(each, access))) continue;
    const who = access.user ? "user" : "supervisor";
    throw new Violation("coherence", `${what}: a ${access.kind} by the ${who} could use it; ${cpu.expectationOf(gva)}`);
  }
  const [first] = there;
  if (!leaf.writable || first === undefined) return;
  const place = memory.placeOf(first.gpa);
  if (place !== null && !memory.isWritableAt(place))
    throw new Violation("isolation", `${what} is writable, and the VMM's own page is not`);
}
