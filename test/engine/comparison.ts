/** Runs one tiny program under several explorers and says where they differ. */
import { BruteForceExplorer, graphOf } from "../../src/engine/explore/brute.ts";
import { DporExplorer } from "../../src/engine/explore/dpor.ts";
import { GraphExplorer } from "../../src/engine/explore/graph.ts";
import { Execution, type MemoryModel, makeWorld, UsageError } from "../../src/engine/index.ts";
import { statementsOf, type Tiny } from "./tiny.ts";
import { countGraphs, isKnownToMachine } from "./tiny-machine.ts";
import { type TinyState, tinyProgram } from "./tiny-program.ts";

/** What an explorer found of a program. */
export interface Found {
  /** Execution graphs, in the words of the brute-force explorer, with how often each was found. */
  readonly graphs: Map<string, number>;
  /** Ends: locations, what the tasks returned, who waits for ever. */
  readonly finals: Set<string>;
  /** Failures, as property and message. */
  readonly failures: Set<string>;
  /** Executions that were given up. */
  blocked: number;
  /** Executions, or interleavings. */
  executions: number;
}

const IDLE = { pick: () => -1, choose: () => 0 };

class TooLarge extends Error {}

function newFound(): Found {
  return { graphs: new Map(), finals: new Set(), failures: new Set(), blocked: 0, executions: 0 };
}

function start(tiny: Tiny, model: MemoryModel, comparesStates = false): { execution: Execution; state: TinyState } {
  const { world, state } = makeWorld(tinyProgram(tiny));
  world.comparesStates = comparesStates;
  return { execution: new Execution(world, model, IDLE), state };
}

function note(found: Found, execution: Execution, state: TinyState, graphs: "none" | "lanes" | "names"): void {
  found.executions++;
  if (graphs !== "none") {
    const graph = namedGraph(execution, graphs === "names");
    found.graphs.set(graph, (found.graphs.get(graph) ?? 0) + 1);
  }
  found.finals.add(finalOf(execution, state));
  for (const failure of execution.failures) found.failures.add(`${failure.property}: ${failure.message}`);
}

function namesFor(tiny: Tiny): "lanes" | "names" {
  return Object.keys(tiny.children).length > 0 ? "names" : "lanes";
}

/** The graph, with tasks by name: which lane a spawned task gets depends on what was explored first. */
function namedGraph(execution: Execution, spawns: boolean): string {
  const graph = graphOf(execution);
  if (!spawns || graph === "") return graph;
  const { tasks, tasksMax } = execution.world;
  const name = (event: string): string => {
    const [lane, nth] = event.split(".") as [string, string];
    const n = Number(lane);
    return `${tasks[n % tasksMax]?.name}${n >= tasksMax ? "!" : ""}#${nth}`;
  };
  const lines = graph.split(";").map((line) => {
    const [, event, outcome, after] = /^([\d.]+)(=\d+)?<(.*)$/.exec(line) as unknown as [
      string,
      string,
      string?,
      string?,
    ];
    const named = (after ?? "")
      .split(",")
      .filter((part) => part !== "")
      .map(name)
      .sort();
    return `${name(event)}${outcome ?? ""}<${named.join(",")}`;
  });
  return lines.sort().join(";");
}

function finalOf(execution: Execution, state: TinyState): string {
  const memory = Object.entries(state.cells).map(([name, cell]) => `${name}=${cell.peek()}`);
  const tasks = execution.world.tasks
    .filter((task) => task.started)
    .map((task) => `${task.name}:${task.halted ? "halted" : task.finished ? String(task.value) : "waits"}`);
  return `${memory.join(" ")} | ${tasks.sort().join(" ")}`;
}

/** Every interleaving; null when there are more than `limit`. */
function byBruteForce(tiny: Tiny, model: MemoryModel, limit: number): Found | null {
  const { execution, state } = start(tiny, model);
  const explorer = new BruteForceExplorer(execution);
  execution.start();
  const found = newFound();
  try {
    explorer.explore(() => {
      if (found.executions >= limit) throw new TooLarge();
      note(found, execution, state, namesFor(tiny));
    });
  } catch (error) {
    if (error instanceof TooLarge) return null;
    throw error;
  }
  return found;
}

function byDpor(tiny: Tiny, model: MemoryModel, withGraphs = true): Found {
  const { execution, state } = start(tiny, model);
  const explorer = new DporExplorer(execution);
  execution.start();
  const found = newFound();
  explorer.explore({
    onExecution: () => {
      note(found, execution, state, withGraphs ? namesFor(tiny) : "none");
      return true;
    },
    onBlocked: () => {
      found.blocked++;
    },
  });
  return found;
}

function byStateGraph(tiny: Tiny, model: MemoryModel): Found {
  const { execution, state } = start(tiny, model, true);
  const explorer = new GraphExplorer(execution);
  execution.start();
  const found = newFound();
  const complete = explorer.explore({
    onFailure: (failure) => {
      found.failures.add(`${failure.property}: ${failure.message}`);
      return true;
    },
    onEnd: () => note(found, execution, state, "none"),
    onState: () => true,
  });
  if (!complete) throw new UsageError("the state graph was not exhausted");
  return found;
}

/** Where two sets differ, in one line; empty when they do not. */
function difference(name: string, mine: Iterable<string>, theirs: Iterable<string>): string[] {
  const a = new Set(mine);
  const b = new Set(theirs);
  const missing = [...b].filter((item) => !a.has(item));
  const extra = [...a].filter((item) => !b.has(item));
  if (missing.length + extra.length === 0) return [];
  const show = (items: readonly string[]): string => (items.length === 0 ? "" : `, as ${items[0]}`);
  return [`${name}: ${missing.length} missing${show(missing)}; ${extra.length} too many${show(extra)}`];
}

export interface Comparison {
  /** Null when the program was too large for brute force. */
  readonly interleavings: number | null;
  readonly graphs: number;
  readonly blocked: number;
  readonly failing: boolean;
  /** The second opinion (tiny-machine.ts) was asked. */
  readonly judged: boolean;
  /** What differs; empty when the explorers agree. */
  readonly differences: readonly string[];
}

/** Compares dpor and the state graph with brute force, and all of them with the machine that knows nothing of the engine. */
export function compareExplorers(tiny: Tiny, model: MemoryModel, limit: number): Comparison {
  try {
    return compare(tiny, model, limit);
  } catch (error) {
    // A broken assumption of the engine is a difference too: the program that breaks it is worth shrinking.
    return { ...NOTHING, interleavings: 0, differences: [String(error)] };
  }
}

const NOTHING = { interleavings: null, graphs: 0, blocked: 0, failing: false, judged: false, differences: [] };

function compare(tiny: Tiny, model: MemoryModel, limit: number): Comparison {
  const brute = byBruteForce(tiny, model, limit);
  if (brute === null) return NOTHING;
  const dpor = byDpor(tiny, model);
  const figures = { interleavings: brute.executions, graphs: brute.graphs.size, blocked: dpor.blocked };
  if (races(brute)) {
    // What a racing plain access finds is no part of the execution graph; it is only to be found that there is a race.
    return { ...figures, failing: true, judged: false, differences: races(dpor) ? [] : ["data race, dpor: missing"] };
  }
  const states = byStateGraph(tiny, model);
  const judged = isKnownToMachine(tiny);
  const differences = [
    ...difference("failures, dpor", dpor.failures, brute.failures),
    ...difference("failures, state graph", states.failures, brute.failures),
    ...difference("final states, dpor", dpor.finals, brute.finals),
    ...difference("final states, state graph", states.finals, brute.finals),
    ...difference("graphs, dpor", dpor.graphs.keys(), brute.graphs.keys()),
    ...(judged ? secondOpinion(tiny, model, brute) : []),
  ];
  const repeated = [...dpor.graphs].filter(([, times]) => times > 1);
  if (repeated.length > 0) differences.push(`dpor: ${repeated.length} graphs more than once, as ${repeated[0]?.[0]}`);
  if (dpor.blocked > 0 && !readersMayStay(tiny)) differences.push(`dpor: ${dpor.blocked} executions given up`);
  return {
    ...figures,
    failing: brute.failures.size > 0,
    judged,
    differences,
  };
}

/**
 * The one thing for which dpor may give up: a reader that waits with its lock held, or fails and keeps it, while a writer waits (docs/dpor.md).
 */
function readersMayStay(tiny: Tiny): boolean {
  const mayFail = [...statementsOf(tiny)].some(({ kind }) => kind === "retire" || kind === "revive");
  return [...tiny.tasks, ...Object.values(tiny.children)].some((body) => {
    let depth = 0;
    return [...statementsOf({ tasks: [body], children: {} })].some(({ kind }) => {
      if (kind === "rdunlock") depth--;
      const stays = depth > 0 && (mayFail || ["await", "lock", "wrlock", "rdlock", "join", "fence"].includes(kind));
      if (kind === "rdlock") depth++;
      return stays;
    });
  });
}

function races(found: Found): boolean {
  return [...found.failures].some((failure) => failure.startsWith("data-race"));
}

function secondOpinion(tiny: Tiny, model: MemoryModel, brute: Found): string[] {
  const machine = countGraphs(tiny, model);
  // The machine has no halves; in a program that it can judge they stay as they are.
  const finals = [...brute.finals].map((final) => final.replace("u=0 v=0 h=0 ", ""));
  const count = `graphs, machine: ${machine.graphs}, brute force: ${brute.graphs.size}`;
  return [
    ...difference("final states, machine", machine.finals, finals),
    ...(machine.graphs === brute.graphs.size ? [] : [count]),
  ];
}
