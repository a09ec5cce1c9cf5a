/**
 * How large is the exploration going to be?
 *
 * The explorer walks a tree of executions whose branches show only when their node is visited. Knuth's estimate goes down at random and
 * multiplies the numbers of branches on its way; its mean is the size of the tree, and it is far off most of the time, because the tree is uneven.
 * Chen's ("Heuristic sampling: a method for predicting the performance of tree searching programs", SIAM J. Comput. 21, 1992) visits one
 * representative of each kind of node, drawn so that each node of the kind had its chance, and counts it for all. Its mean is the size of the
 * tree too, for any notion of kind, and the better the kind tells the size of what is below, the less it is off. Here nodes are of a kind
 * when they lie at the same depth, keep as many events of an execution as long and as many heads among them, delay the same place and task for
 * the same other task, and have that wait for as many others: what is below depends above all on how much of an execution is still free, and
 * on what may not be dropped any more.
 *
 * What is probed is what is still open, not the whole tree, so estimates get better as the exploration goes on; the first is made before it
 * begins. Each look makes a few independent probes; their spread is the uncertainty. All looks estimate the same number and are averaged, each
 * with the weight that it deserves.
 */
import type { Job, Totals } from "../job.ts";
import { Random } from "../random.ts";
import type { DporExplorer, DporHooks } from "./dpor.ts";
import { type Alternative, type Frame, isSpent, type Reversal, reversalOf } from "./reversals.ts";
import type { Subtree } from "./subtree.ts";

/** How many executions there are in all: the likeliest number, and bounds that hold 19 times of 20. Plain data. */
export interface Estimate {
  readonly executions: number;
  readonly low: number;
  readonly high: number;
}

/** Whoever can walk down the tree: a JobRunner. */
export interface EstimateSource {
  readonly explorer: DporExplorer | null;
  framesOf(part: Subtree): readonly Frame[] | null;
}

/** One look at what is open: how many executions are left, the variance of that, and how many nodes were visited for it. */
export interface Glance {
  readonly left: number;
  readonly variance: number;
  readonly visits: number;
}

/** Probes of a look; after the second, only as long as they are cheap. */
const PROBES = 4;
const VISITS_CHEAP = 2_000;
/** A probe of more nodes takes too long: from then on nodes are taken to be of a kind that are less alike. */
const VISITS_MAX = 5_000;
/** Of a group with more ways to be reversed, only so many are looked at, and count for all. */
const GROUP_MAX = 1_000;
/** A handful of probes cannot show that they are less off than this. */
const SPREAD_MIN = 0.25;
/** How many times as many executions come before the next look, and how many more for each node visited. */
const NEXT_LOOK = 1.7;
const WORK_PER_VISIT = 20;
/** When so much should be done, it is worth a look whether that is so; how many times as many executions there are before that at least. */
const NEARLY_DONE = 0.8;
const NEXT_LOOK_LEAST = 1.2;

/** Decides when to look, and adds up what was seen. */
export class Estimator {
  current: Estimate | null = null;
  private nextLook = 0;
  private looks = 0;
  private weights = 0;
  private weighted = 0;

  wants({ executions }: Pick<Totals, "executions">): boolean {
    return executions >= this.nextLook;
  }

  /** Looks at what is open. @param totals of all that is done, and of nothing else */
  look(source: EstimateSource, open: readonly Job[], totals: Totals): void {
    this.add(glance(source, open, this.looks), totals);
  }

  add({ left, variance, visits }: Glance, { executions }: Pick<Totals, "executions">): void {
    this.looks++;
    const weight = 1 / Math.max(1, variance);
    this.weights += weight;
    this.weighted += weight * (executions + left);
    const mean = this.weighted / this.weights;
    const off = 2 * Math.sqrt(1 / this.weights);
    const atLeast = executions + (left > 0 ? 1 : 0);
    this.current = {
      executions: Math.round(Math.max(atLeast, mean)),
      low: Math.round(Math.max(atLeast, mean - off)),
      high: Math.round(Math.max(atLeast, mean + off)),
    };
    this.nextLook = Math.min(
      Math.max(executions * NEXT_LOOK, executions + visits * WORK_PER_VISIT),
      Math.max(executions * NEXT_LOOK_LEAST, this.current.executions * NEARLY_DONE),
    );
  }

  /** How many looks there were: what {@link glance} takes as its seed. */
  get seed(): number {
    return this.looks;
  }
}

/** Estimates how many executions the open jobs stand for. */
export function glance(source: EstimateSource, open: readonly Job[], seed: number): Glance {
  const { explorer } = source;
  const parts = open.flatMap((job) => (job.kind === "tree" ? [job.part] : []));
  if (explorer === null || parts.length === 0) return { left: 0, variance: 0, visits: 0 };
  const prober = new Prober(explorer, new Random(seed + 1));
  const nodes = parts.flatMap((part) => prober.openNodes(source.framesOf(part)));
  const guesses: number[] = [];
  while (guesses.length < 2 || (guesses.length < PROBES && prober.visits < VISITS_CHEAP))
    guesses.push(prober.probe(nodes));
  const left = guesses.reduce((sum, guess) => sum + guess, 0) / guesses.length;
  const square = guesses.reduce((sum, guess) => sum + (guess - left) ** 2, 0) / (guesses.length - 1);
  return { left, variance: Math.max(square, (SPREAD_MIN * left) ** 2) / guesses.length, visits: prober.visits };
}

/** A branch still to be taken, and how many it stands for. */
interface Node {
  readonly depth: number;
  /** Null for the first execution of all. */
  readonly frame: Frame | null;
  readonly branch: Reversal | Alternative | null;
  readonly weight: number;
}

/** The nodes of one kind. */
interface Kind {
  node: Node;
  weight: number;
}

class Prober {
  private readonly explorer: DporExplorer;
  private readonly random: Random;
  /** Lengths are compared without so many of their low bits. */
  private coarseness = 0;
  visits = 0;
  private executions = 0;
  private readonly hooks: DporHooks = {
    onExecution: () => {
      this.executions++;
      return true;
    },
    onBlocked: () => undefined,
  };

  constructor(explorer: DporExplorer, random: Random) {
    this.explorer = explorer;
    this.random = random;
  }

  openNodes(frames: readonly Frame[] | null): Node[] {
    if (frames === null) return [{ depth: 0, frame: null, branch: null, weight: 1 }];
    return frames.flatMap((frame, i) => this.nodesOf(frame, i + 1, 1));
  }

  /** The children of a node, whose execution the frame is. */
  private nodesOf(frame: Frame, depth: number, weight: number): Node[] {
    return frame.branches.flatMap((branch): Node[] => {
      if (branch.kind !== "group") return [{ depth, frame, branch, weight }];
      if (isSpent(branch)) return [];
      const radix = branch.members.map((ofLane) => ofLane.length + 1);
      const all = radix.reduce((product, n) => product * n, 1);
      let first = 0;
      for (let i = radix.length - 1; i >= 0; i--) first = first * (radix[i] as number) + (branch.choice[i] as number);
      const step = Math.max(1, (all - first) / GROUP_MAX);
      const nodes: Node[] = [];
      for (let n = first; n < all; n += step) {
        const reversal = reversalOf(frame, branch, digitsOf(Math.floor(n), radix));
        if (reversal !== null) nodes.push({ depth, frame, branch: reversal, weight: weight * step });
      }
      return nodes;
    });
  }

  /** One guess at how many executions there are at and below the nodes. */
  probe(nodes: readonly Node[]): number {
    const levels: Map<string, Kind>[] = [];
    for (const node of nodes) this.put(levels, node);
    const before = this.visits;
    let guess = 0;
    for (let depth = 0; depth < levels.length; depth++) {
      for (const { node, weight } of levels[depth]?.values() ?? []) {
        this.visits++;
        this.executions = 0;
        const frame =
          node.frame === null || node.branch === null
            ? this.explorer.visitFirst(this.hooks)
            : this.explorer.visit(node.frame, node.branch, this.hooks);
        guess += weight * this.executions;
        if (frame !== null) for (const child of this.nodesOf(frame, depth + 1, weight)) this.put(levels, child);
      }
      levels[depth] = new Map();
    }
    if (this.visits - before > VISITS_MAX) this.coarseness++;
    return guess;
  }

  /** Puts a node with those of its kind; the representative is drawn anew. */
  private put(levels: Map<string, Kind>[], node: Node): void {
    while (levels.length <= node.depth) levels.push(new Map());
    const level = levels[node.depth] as Map<string, Kind>;
    const key = this.kindOf(node);
    const kind = level.get(key);
    if (kind === undefined) {
      level.set(key, { node, weight: node.weight });
      return;
    }
    kind.weight += node.weight;
    if (this.random.next() / 0x1_0000_0000 < node.weight / kind.weight) kind.node = node;
  }

  private kindOf({ frame, branch }: Node): string {
    if (frame === null || branch === null) return "";
    const { before } = branch;
    const lane = branch.kind === "reversal" ? branch.lane : -1;
    const heads = frame.heads.filter(({ at }) => at < before).length;
    const lengths = [keptBy(frame, branch), before, heads, frame.lanes.length].map((n) => n >>> this.coarseness);
    const waitsFor = branch.kind === "reversal" ? branch.row.filter((nth) => nth > 0).length : 0;
    return `${lane}:${frame.lanes[before]}:${waitsFor}:${lengths.join(":")}`;
  }
}

/** A number written with the given radices, lowest first. */
function digitsOf(n: number, radix: readonly number[]): number[] {
  let rest = n;
  return radix.map((base) => {
    const digit = rest % base;
    rest = Math.floor(rest / base);
    return digit;
  });
}

/** How many events of the frame's execution come before what is free after the branch. */
function keptBy(frame: Frame, branch: Reversal | Alternative): number {
  if (branch.kind === "alternative") return branch.before + 1;
  const { before, at, row } = branch;
  const counts = new Int32Array(row.length);
  let kept = before + 1;
  for (let i = 0; i < at; i++) {
    const lane = frame.lanes[i] as number;
    const nth = (counts[lane] as number) + 1;
    counts[lane] = nth;
    if (i > before && nth <= (row[lane] as number)) kept++;
  }
  return kept;
}
