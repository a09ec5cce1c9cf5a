/** Tiny programs (tiny.ts) drawn at random, small enough to be enumerated by brute force. */
import fc from "fast-check";
import type { LockVerb, Operand, Statement, Test, Tiny } from "./tiny.ts";

/** What kinds of statement are drawn. */
export interface Flavour {
  /** Steps of all tasks together, about. */
  readonly steps: number;
  readonly tasksMax: number;
  readonly locks: boolean;
  readonly sharedLocks: boolean;
  readonly spawns: boolean;
  readonly lifetimes: boolean;
  /** Awaits, store-now, fences of another task, and choose. */
  readonly waits: boolean;
  /** Plain accesses, in locks and out of them. */
  readonly plain: boolean;
  /** Two locations in one granule. */
  readonly halves: boolean;
}

const cellArb = (flavour: Flavour): fc.Arbitrary<string> =>
  fc.constantFrom("x", "x", "x", "x", "y", "y", ...(flavour.halves ? ["u", "u", "v", "v", "h"] : ["z"]));
const regArb = fc.constantFrom("r0", "r1");
const valueArb: fc.Arbitrary<Operand> = fc.oneof(
  { weight: 4, arbitrary: fc.integer({ min: 0, max: 3 }) },
  { weight: 1, arbitrary: regArb },
);

/** A piece of a body: one statement, or a lock with what it protects. */
type Piece = readonly Statement[];

const one = (arb: fc.Arbitrary<Statement>): fc.Arbitrary<Piece> => arb.map((statement) => [statement]);

function accessArb(flavour: Flavour): fc.Arbitrary<Piece> {
  const cell = cellArb(flavour);
  const load = fc.record({ kind: fc.constant("load" as const), reg: regArb, cell });
  const store = fc.record({ kind: fc.constant("store" as const), cell, value: valueArb });
  const update = fc.record({
    kind: fc.constantFrom("xadd" as const, "xchg" as const, "or" as const, "and" as const),
    reg: regArb,
    cell,
    value: valueArb,
  });
  const cas = fc.record({ kind: fc.constant("cas" as const), reg: regArb, cell, expected: valueArb, value: valueArb });
  return fc.oneof(
    { weight: 6, arbitrary: one(load) },
    { weight: 6, arbitrary: one(store) },
    { weight: 2, arbitrary: one(update) },
    { weight: 2, arbitrary: one(cas) },
    { weight: 1, arbitrary: one(fc.constant<Statement>({ kind: "fence", of: null })) },
  );
}

function waitArb(flavour: Flavour): fc.Arbitrary<Piece> {
  const cell = cellArb(flavour);
  const waiting = fc.record({
    kind: fc.constant("await" as const),
    reg: regArb,
    cell,
    test: fc.constantFrom<Test>("==", "!=", ">="),
    value: fc.integer({ min: 0, max: 2 }),
  });
  const storeNow = fc.record({ kind: fc.constant("storeNow" as const), cell, value: valueArb });
  const choose = fc.record({ kind: fc.constant("choose" as const), reg: regArb, n: fc.constantFrom(2, 2, 3) });
  const fence = fc.record({ kind: fc.constant("fence" as const), of: fc.constantFrom(0, 1) });
  return fc.oneof(
    { weight: 5, arbitrary: one(waiting) },
    { weight: 1, arbitrary: one(storeNow) },
    { weight: 2, arbitrary: one(choose) },
    { weight: 1, arbitrary: one(fence) },
  );
}

function plainArb(): fc.Arbitrary<Piece> {
  const cell = fc.constantFrom("x", "y");
  const peek = fc.record({ kind: fc.constant("peek" as const), reg: regArb, cell });
  const poke = fc.record({ kind: fc.constant("poke" as const), cell, value: valueArb });
  return fc.oneof(
    one(peek),
    one(poke),
    // What a task stores with a mark and then looks at without.
    fc.tuple(poke, peek).map(([{ value }, look]): Piece => [{ kind: "store", cell: look.cell, value }, look]),
    fc.tuple(poke, valueArb).map(([write, value]): Piece => [{ kind: "store", cell: write.cell, value }, write]),
    ...[peek, poke].map((inside) =>
      inside.map((access): Piece => [verb("lock", "l"), access as Statement, verb("unlock", "l")]),
    ),
  );
}

const verb = (kind: LockVerb, cell: string): Statement => ({ kind, cell });

function lockArb(flavour: Flavour, inner: fc.Arbitrary<Piece>): fc.Arbitrary<Piece> {
  const body = fc.array(inner, { maxLength: 2 }).map((pieces) => pieces.flat());
  const single = fc
    .tuple(fc.constantFrom("k", "l"), body)
    .map(([lock, inside]) => [verb("lock", lock), ...inside, verb("unlock", lock)]);
  const nested = fc
    .tuple(fc.constantFrom(["k", "l"] as const, ["l", "k"] as const), body)
    .map(([[outer, innermost], inside]) => [
      verb("lock", outer),
      verb("lock", innermost),
      ...inside,
      verb("unlock", innermost),
      verb("unlock", outer),
    ]);
  const read = body.map((inside) => [verb("rdlock", "m"), ...inside, verb("rdunlock", "m")]);
  const write = body.map((inside) => [verb("wrlock", "m"), ...inside, verb("wrunlock", "m")]);
  const exclusive = fc.oneof({ weight: 3, arbitrary: single }, { weight: 1, arbitrary: nested });
  const shared = fc.oneof({ weight: 3, arbitrary: read }, { weight: 2, arbitrary: write });
  if (!flavour.sharedLocks) return exclusive;
  return flavour.locks ? fc.oneof(exclusive, shared) : shared;
}

function lifetimeArb(): fc.Arbitrary<Piece> {
  const cell = fc.constantFrom("o", "o", "o", "p");
  const value = fc.integer({ min: 0, max: 2 });
  return fc.oneof(
    { weight: 3, arbitrary: one(fc.record({ kind: fc.constant("load" as const), reg: regArb, cell })) },
    { weight: 3, arbitrary: one(fc.record({ kind: fc.constant("store" as const), cell, value: valueArb })) },
    one(fc.record({ kind: fc.constant("xadd" as const), reg: regArb, cell, value })),
    one(fc.record({ kind: fc.constant("cas" as const), reg: regArb, cell, expected: value, value })),
    one(
      fc.record({
        kind: fc.constant("await" as const),
        reg: regArb,
        cell,
        test: fc.constantFrom<Test>("==", "!="),
        value,
      }),
    ),
    { weight: 4, arbitrary: one(fc.record({ kind: fc.constantFrom("retire" as const, "revive" as const), cell })) },
    // Freed under a lock, looked at under the same lock: the ordered uses.
    cell.map((name) => [verb("lock", "l"), { kind: "retire" as const, cell: name }, verb("unlock", "l")]),
    cell.map((name) => [
      verb("lock", "l"),
      { kind: "revive" as const, cell: name },
      { kind: "load" as const, reg: "r0", cell: name },
      verb("unlock", "l"),
    ]),
  );
}

function pieceArb(flavour: Flavour, depth: number, maySpawn: boolean): fc.Arbitrary<Piece> {
  const options: { weight: number; arbitrary: fc.Arbitrary<Piece> }[] = [{ weight: 8, arbitrary: accessArb(flavour) }];
  if (flavour.waits) options.push({ weight: 3, arbitrary: waitArb(flavour) });
  if (flavour.lifetimes) options.push({ weight: 4, arbitrary: lifetimeArb() });
  if (flavour.plain) options.push({ weight: 6, arbitrary: plainArb() });
  if (depth > 0) {
    const inner = pieceArb(flavour, depth - 1, maySpawn && depth > 1);
    if (flavour.locks || flavour.sharedLocks) options.push({ weight: 4, arbitrary: lockArb(flavour, inner) });
    options.push({ weight: 2, arbitrary: branchArb(inner) });
    if (flavour.spawns && maySpawn) options.push({ weight: 4, arbitrary: spawnArb(inner) });
  }
  return fc.oneof(...options);
}

function branchArb(inner: fc.Arbitrary<Piece>): fc.Arbitrary<Piece> {
  return fc
    .record({
      reg: regArb,
      value: fc.integer({ min: 0, max: 2 }),
      yes: inner,
      no: fc.oneof(fc.constant<Piece>([]), inner),
    })
    .map((branch): Piece => [{ kind: "if", ...branch }]);
}

function spawnArb(inner: fc.Arbitrary<Piece>): fc.Arbitrary<Piece> {
  return fc.tuple(inner, fc.boolean()).map(([between, joins]) => {
    const spawn: Statement = { kind: "spawn", child: "c0" };
    return joins ? [spawn, ...between, { kind: "join", child: "c0" }] : [spawn, ...between];
  });
}

/** Tiny programs of one flavour. Pieces are dealt out to the tasks until there are about as many steps as the flavour says. */
export function tinyArb(flavour: Flavour): fc.Arbitrary<Tiny> {
  const piece = pieceArb(flavour, 2, true);
  const childPiece = pieceArb({ ...flavour, locks: false, sharedLocks: false }, 1, false);
  return fc.integer({ min: 2, max: flavour.tasksMax }).chain((tasks) =>
    fc
      .record({
        dealt: fc.array(fc.tuple(fc.nat({ max: tasks - 1 }), piece), {
          minLength: flavour.steps >> 1,
          maxLength: flavour.steps * 2,
        }),
        child: fc.array(childPiece, { maxLength: 2 }),
      })
      .map(({ dealt, child }) => deal(flavour, tasks, dealt, child.flat().slice(0, 2))),
  );
}

function deal(flavour: Flavour, tasks: number, dealt: readonly (readonly [number, Piece])[], child: Piece): Tiny {
  const bodies: Statement[][] = Array.from({ length: tasks }, () => []);
  let left = flavour.steps;
  let spawned = false;
  for (const [task, piece] of dealt) {
    const cost = costOf(piece, costOf(child, 0));
    if (cost > left) continue;
    left -= cost;
    spawned ||= spawns(piece);
    (bodies[task] as Statement[]).push(...piece);
  }
  const children = spawned ? { c0: oneKindOfStore(child) } : {};
  return { tasks: bodies.map(oneKindOfStore), children };
}

/** A task must not store to one place both at once and through its buffer: those at once become ordinary where it does. */
function oneKindOfStore(body: Piece): Piece {
  const buffered = new Set<string>();
  const note = (statements: Piece): void => {
    for (const s of statements) {
      if (s.kind === "store") buffered.add(granuleOf(s.cell));
      if (s.kind === "if") [s.yes, s.no].forEach(note);
    }
  };
  note(body);
  const mend = (statements: Piece): Piece =>
    statements.map((s): Statement => {
      if (s.kind === "if") return { ...s, yes: mend(s.yes), no: mend(s.no) };
      return s.kind === "storeNow" && buffered.has(granuleOf(s.cell)) ? { ...s, kind: "store" } : s;
    });
  return mend(body);
}

function granuleOf(cell: string): string {
  return cell === "v" || cell === "h" ? "u" : cell;
}

function spawns(body: Piece): boolean {
  return body.some((s) => s.kind === "spawn" || (s.kind === "if" && (spawns(s.yes) || spawns(s.no))));
}

/** Steps of the longest way through, those of a spawned child included. */
function costOf(body: Piece, childCost: number): number {
  let cost = 0;
  for (const s of body) {
    if (s.kind === "if") cost += Math.max(costOf(s.yes, childCost), costOf(s.no, childCost));
    else cost += s.kind === "spawn" ? 1 + childCost : 1;
  }
  return cost;
}
