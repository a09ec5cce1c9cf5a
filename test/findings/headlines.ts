/**
 * The figures that the threads are known for, and what measuring gives for each: docs/findings/README.md is made from this, and the quick ones are
 * run and compared with the page.
 */
import type { CostTable } from "../../src/engine/index.ts";
import { figure, time } from "../../src/report/units.ts";

/** A metric of a variant. */
type Metric = (variant: string, name: string) => number;

export interface Headline {
  readonly study: string;
  readonly what: string;
  /** What the thread says. */
  readonly theirs: string;
  readonly variants: readonly string[];
  readonly set: Readonly<Record<string, number>>;
  readonly costs?: CostTable;
  /** The figure as the page has it. */
  readonly ours: (metric: Metric) => string;
  /** For what takes minutes: the figure when it was last measured. Only the others are run. */
  readonly recorded?: string;
  readonly why: string;
}

const ratio = (a: number, b: number): string => figure(Number((a / b).toPrecision(3)));
/** Seven nanoseconds of 380 are the exchange of the entry. */
const SLOW_LEAF = { "zap a leaf": 373 };

export const HEADLINES: readonly Headline[] = [
  {
    study: "lockless-walk",
    what: "pages that wait to be freed, without a bound: the proposal, while a walk takes 64 ms",
    theirs: '"unbounded" (no figure)',
    variants: ["V3"],
    set: { reader: 64, work: 1_000_000, duration: 200 },
    ours: (m) => `${m("V3", "backlog")}`,
    why: "the zap's rate times two grace periods, each as long as a walk",
  },
  {
    study: "lockless-walk",
    what: "the same, bounded: every CPU is interrupted, or a lock bit in each reverse map",
    theirs: "(no figure)",
    variants: ["V4b", "V7"],
    set: { reader: 64, work: 1_000_000, duration: 200 },
    ours: (m) => `${m("V4b", "backlog")} and ${m("V7", "backlog")}`,
    why: "pages are freed at once",
  },
  {
    study: "lockless-walk",
    what: "the same with a cap of 64, in 100 ms, and what RCU has of it",
    theirs: "(no figure)",
    variants: ["V5b"],
    set: { duration: 100 },
    ours: (m) => `${m("V5b", "backlog")}, ${m("V5b", "with RCU")}`,
    why: "the cap bounds what RCU keeps, and nothing makes the zap wait",
  },
  {
    study: "lazy-large-spte",
    what: "reads after write protection, eager over lazy drop",
    theirs: "2.044",
    variants: ["eager", "lazy"],
    set: { lines: 64 },
    ours: (m) => ratio(m("eager", "page ns"), m("lazy", "page ns")),
    why: "512 faults for 2M against none, where a page of 64 lines is read",
  },
  {
    study: "lockless-aging",
    what: "one aging pass at 64 vCPUs, with mmu_lock over without",
    theirs: "30.3",
    variants: ["A0", "A7"],
    set: { vcpus: 64 },
    ours: (m) => ratio(m("A0", "pass ns"), m("A7", "pass ns")),
    why: "a page waits for all vCPUs in the queue of mmu_lock; the factor grows with the length of populating",
  },
  {
    study: "gpc-refresh",
    what: "refreshes a second in a storm of unrelated invalidations, Linux and the counter-proposal",
    theirs: '"no progress" against progress',
    variants: ["D0", "D4"],
    set: { duration: 10 },
    ours: (m) => `${m("D0", "refreshes/s")} and ${figure(m("D4", "refreshes/s"))}`,
    why: "Linux retries on any invalidation, the proposal on those of its range",
  },
  {
    study: "root-zap",
    what: "one pass over 512 GiB of 4K pages",
    theirs: "up to ~7 s",
    variants: ["Z1"],
    set: { gib: 512 },
    ours: (m) => time(m("Z1", "stretch ns")),
    recorded: "6.97 s",
    why: "2^27 leaves of 52 ns (that figure is the thread's own) in one RCU section",
  },
  {
    study: "root-zap",
    what: "the same on a slow machine, 380 ns a leaf, and reports of an RCU stall",
    theirs: "RCU stall after 21 s",
    variants: ["Z1"],
    set: { gib: 512 },
    costs: SLOW_LEAF,
    ours: (m) => `${time(m("Z1", "stretch ns"))}, ${m("Z1", "stalls")}`,
    recorded: "50.9 s, 1",
    why: "no grace period ends meanwhile; from 157 ns a leaf on RCU reports it",
  },
  {
    study: "root-zap",
    what: "longest section of two passes, 380 ns a leaf",
    theirs: "< 100 ms",
    variants: ["Z2"],
    set: { gib: 2 },
    costs: SLOW_LEAF,
    ours: (m) => time(m("Z2", "stretch ns")),
    why: "one GiB: 2^18 leaves",
  },
  {
    study: "root-zap",
    what: "a vCPU's fault that puts a page of 1G in the place of a GiB of 4K pages",
    theirs: '"hundreds of us or more" for a GiB',
    variants: ["Z7"],
    set: {},
    ours: (m) => time(m("Z7", "fault max ns")),
    why: "2^18 leaves in one RCU section, as in Z2",
  },
  {
    study: "root-zap",
    what: "two roots of 1 GiB: CPU time of the zap and CPUs at a time, by workers and by the caller",
    theirs: "(no figure)",
    variants: ["Z4", "Z2"],
    set: { gib: 1, roots: 2 },
    ours: (m) => ["Z4", "Z2"].map((name) => `${time(m(name, "CPU ns"))} on ${figure(m(name, "CPUs"))}`).join(" and "),
    why: "a worker for each root: the caller goes on at once, and as many CPUs are busy as there are roots",
  },
  {
    study: "root-zap",
    what: "one pass under a root of 5 levels, 1 GiB of 4K pages in 8 parts 512 GiB apart (built, and as extrapolated)",
    theirs: "(no figure)",
    variants: ["Z1"],
    set: { gib: 1, levels: 5, regions: 8 },
    ours: (m) => time(m("Z1", "stretch ns")),
    why: "2^18 leaves, and eight tables of level 3 with 512 entries each",
  },
  {
    study: "root-zap",
    what: "level by level: longest section under an entry of a root of 5 levels that is full (built, of 1G pages)",
    theirs: "(no figure)",
    variants: ["Z3"],
    set: { gib: 512, level: 3, levels: 5, regions: 512 },
    ours: (m) => `${time(m("Z3", "stretch ns"))}, of it ${time(m("Z3", "last step ns"))} in one step`,
    why: "the last step exchanges the empty entries of 513 tables",
  },
  {
    study: "root-zap",
    what: "one pass with 5 levels, 32 TiB (extrapolated)",
    theirs: "several hundred seconds",
    variants: ["Z1"],
    set: { gib: 32_768 },
    ours: (m) => time(m("Z1", "stretch ns")),
    why: "an entry of a 5-level root is one section",
  },
  {
    study: "root-zap",
    what: "the same for a guest of 64 TiB",
    theirs: "900+ s",
    variants: ["Z1"],
    set: { gib: 65_536 },
    ours: (m) => time(m("Z1", "stretch ns")),
    why: "2^34 leaves",
  },
];

/** The command that gives the figure. */
export function commandOf({ study, variants, set, costs = {} }: Headline): string {
  return [
    `racewalk measure ${study}`,
    ...variants.map((name) => `--variant ${name}`),
    ...Object.entries(set).map(([name, value]) => `--set ${name}=${value}`),
    ...Object.entries(costs).map(([name, value]) => `--cost "${name}=${value}"`),
  ].join(" ");
}
