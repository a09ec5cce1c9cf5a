/**
 * Designs that exist more than once, in Linux's history or in a thread: which one this VM runs.
 *
 * A kernel version is a named set of variants. The default is Linux 7.2.
 */
import { UsageError } from "../engine/index.ts";

/** The recorded kernels. */
export type KernelVersion = "6.12" | "7.2";

/** Protocols of gfn_to_pfn_cache against invalidation (kvm/gpc-protocols.ts). */
export type GpcDesign = "D0" | "D1" | "D2" | "D3" | "D3'" | "D3s" | "D4" | "D4-nomb" | "D5";

export interface KvmVariants {
  readonly kernel: KernelVersion;
  readonly gpc: GpcDesign;
  /**
   * How often a refresh may start over before it gives up; Infinity in Linux. A bounded exploration needs a bound, and loses nothing by it: an
   * attempt that is thrown away leaves no trace, so a later attempt is the same as a first one made later.
   */
  readonly gpcRetriesMax: number;
  /**
   * How often a vCPU may fault on one instruction before its thread gives up; Infinity in Linux, where a guest that touches a range under
   * invalidation faults again and again. The same holds as for gpcRetriesMax.
   */
  readonly faultsMax: number;
}

export const LINUX_7_2: KvmVariants = {
  kernel: "7.2",
  gpc: "D0",
  gpcRetriesMax: Number.POSITIVE_INFINITY,
  faultsMax: Number.POSITIVE_INFINITY,
};
export const LINUX_6_12: KvmVariants = { ...LINUX_7_2, kernel: "6.12" };

/** @throws UsageError for an unknown version */
export function variantsOfKernel(version: string): KvmVariants {
  const bare = version.replace(/^v/, "");
  if (bare === "7.2") return LINUX_7_2;
  if (bare === "6.12") return LINUX_6_12;
  throw new UsageError(`kernel ${version}: not modelled; use 6.12 or 7.2`);
}
