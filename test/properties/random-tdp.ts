/**
 * One random workload against the plain reference.
 *
 *     const problem = runSeed(17);      null, or what did not agree, and after which operation
 *
 * The seed chooses the workload and the machine: kernel, paging, page-modification logging, whether translations outlive a stay in the guest.
 */
import { runWorkload } from "../../src/conform/model.ts";
import { randomWorkload } from "../../src/conform/random-workload.ts";
import { parseWorkload } from "../../src/conform/workload.ts";
import { Random } from "../../src/engine/index.ts";
import type { KvmVariants } from "../../src/kvm/variants.ts";
import { tdpMappingsProblem } from "../../src/oracle/tdp-mappings.ts";
import { tdpRootsProblem } from "../../src/oracle/tdp-roots.ts";
import { tdpTablesProblem } from "../../src/oracle/tdp-tables.ts";
import { machineProblem } from "./machine-check.ts";
import { TdpReference } from "./tdp-reference.ts";

export interface SeedOptions {
  /** Operations of a workload. Default 30. */
  readonly operations?: number;
  readonly gigantic?: boolean;
}

/** What the seed makes the machine. */
export interface SeedMachine {
  readonly kernel: "v6.12" | "v7.2";
  readonly variants: Partial<KvmVariants>;
  readonly keepsTranslations: boolean;
}

export function machineOf(seed: number): SeedMachine {
  const random = new Random(seed ^ 0x7d9);
  const kernel = random.below(2) === 0 ? "v6.12" : "v7.2";
  const paging = (["npt", "ept", "ept", "ept-no-ad"] as const)[random.below(4)] ?? "npt";
  const pml = paging === "ept" && random.below(2) === 0;
  const slotZapAll = random.below(4) !== 0;
  const keepsTranslations = random.below(2) === 0;
  const isDeep = random.below(4) === 0;
  const deep = isDeep ? ({ maxTdpLevel: 5, maxPhyAddr: random.below(2) === 0 ? 48 : 52 } as const) : {};
  return { kernel, variants: { paging, pml, slotZapAll, ...deep }, keepsTranslations };
}

class Disagreement extends Error {}

/** Null when all agrees, else what does not. */
export function runSeed(seed: number, options: SeedOptions = {}): string | null {
  return runDocument(`seed ${seed}`, documentOf(seed, options), machineOf(seed));
}

/** The workload that the seed makes, in the form of `<case>.workload.json`. */
export function documentOf(seed: number, options: SeedOptions = {}): Readonly<Record<string, unknown>> {
  return randomWorkload(seed, { operations: options.operations ?? 30, gigantic: options.gigantic ?? false });
}

/** Runs a workload against the reference. Null when all agrees, else what does not. */
export function runDocument(name: string, document: unknown, machine: SeedMachine): string | null {
  const { kernel, variants, keepsTranslations } = machine;
  const workload = parseWorkload(name, document);
  const reference = new TdpReference(workload, { kernel, keepsTranslations });
  const where = (at: number): string => {
    const what = at < 0 ? "the set-up" : `ops[${at}] ${JSON.stringify(workload.requests[at] ?? "the teardown")}`;
    return `${name}, ${kernel} ${JSON.stringify(variants)}, after ${what}`;
  };
  let reached = -1;
  try {
    runWorkload({
      workload,
      initial: null,
      kernel,
      recording: null,
      variants,
      keepsTranslations,
      inspect: (inspected, at, run) => {
        reached = at;
        if (at < 0) reference.listen(inspected);
        const isLast = at === workload.ops.length;
        const problem = isLast
          ? teardownProblem(inspected)
          : ((run === null ? null : reference.apply(inspected, at, run)) ?? machineProblem(inspected, reference));
        if (problem !== null) throw new Disagreement(problem);
        const isEnd = at === workload.ops.length - 1;
        const broken = isEnd ? (oracleProblem(inspected.vm) ?? null) : null;
        if (broken !== null) throw new Disagreement(broken);
      },
    });
  } catch (error) {
    const at = error instanceof Disagreement ? reached : reached + 1;
    return `${where(at)}: ${error instanceof Error ? error.message : String(error)}`;
  }
  return null;
}

type Inspected = Parameters<typeof machineProblem>[0];

function oracleProblem(vm: Inspected["vm"]): string | null {
  return tdpTablesProblem(vm.tdp) ?? tdpMappingsProblem(vm.tdp) ?? tdpRootsProblem(vm);
}

/** Nothing of the MMU is left. */
function teardownProblem({ vm, counters }: Inspected): string | null {
  const waiting = new Set(vm.kvm.kernel.rcu.pendingObjects().map((addr) => vm.tdp.pages.at(addr).spt.peek()));
  const left = vm.tdp.pages.liveTables().filter((table) => !waiting.has(table));
  if (left.length > 0) return `${left.length} tables are left after the VM`;
  for (const name of ["pages_4k", "pages_2m", "pages_1g", "nx_lpage_splits"]) {
    if (counters.vm[name] !== 0) return `${name} is ${counters.vm[name]} after the VM`;
  }
  return null;
}
