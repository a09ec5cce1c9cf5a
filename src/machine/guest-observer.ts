/**
 * Who watches a guest: what its CPU does, and what the hypervisor does in its place, as it happens.
 *
 * For oracles, which must not learn from the code that they judge where an access should have gone.
 */
import type { U64 } from "../engine/index.ts";
import type { Gpa, Gva, Hpa } from "./address.ts";
import type { GuestAction } from "./guest-cpu.ts";
import type { GuestEvent } from "./guest-exception.ts";
import type { AccessKind } from "./page-walk.ts";

/** What an access does to memory. */
export interface ObservedStore {
  readonly value: U64;
  /** The value is added to what stands there. */
  readonly adds: boolean;
}

/** One access within one page, about to be made. */
export interface ObservedAccess {
  readonly gva: Gva;
  readonly kind: AccessKind;
  /** CPL 3. */
  readonly user: boolean;
  /** Bytes. */
  readonly size: number;
  /** Null: a read, a fetch, or a write whose value does not matter. */
  readonly store: ObservedStore | null;
}

export interface GuestObserver {
  /** The CPU makes an access: its translation has ended at `hpa`. */
  accessed(access: ObservedAccess, hpa: Hpa): void;
  /** The hypervisor makes it in the guest's place, at `gpa`. */
  emulated(access: ObservedAccess, gpa: Gpa): void;
  /** A MOV to a control register or an INVLPG is done, by whomever. */
  retired(action: GuestAction): void;
  /** A page fault of the guest's own begins to be delivered. */
  faulted(event: GuestEvent): void;
}
