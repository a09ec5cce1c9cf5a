/**
 * What a study is.
 *
 * A study states a question about a design, where the question comes from, the variants of the design, and for each the scenarios in
 * which a property must hold or must not. Every such cell has an expected verdict, so that a changed verdict is a failing test.
 *
 *     export default study({
 *       id: "my-idea", title: "May the flag be set last?", source: "https://lore.kernel.org/...",
 *       variants: { last: "the flag is set last", first: "the flag is set first" },
 *       cells: [
 *         cell({ variant: "last", property: "data-race", expected: "holds", because: "...", program: () => scenario("last") }),
 *         ...
 *       ],
 *     });
 */
import { type MemoryModel, type Program, type Strategy, UsageError, type Verdict } from "../engine/index.ts";

export type Expected = Exclude<Verdict, "unknown">;

/** One scenario of one variant, and what must come of it. */
export interface StudyCell {
  /** One of the study's variants. */
  readonly variant: string;
  /** Short name of the scenario, part of replay strings. */
  readonly scenario: string;
  /** The property asked for: "isolation", "progress", "deadlock" ... A cell that is expected to fail must fail in this one. */
  readonly property: string;
  readonly model: MemoryModel;
  readonly strategy: Strategy;
  readonly expected: Expected;
  /** Why this verdict is expected; and where it differs from the source, what is wrong there. */
  readonly because: string;
  readonly program: () => Program;
}

/** A cell with the usual choices filled in: explored completely, under SC. */
export type CellDescription = Pick<StudyCell, "variant" | "property" | "expected" | "program"> & Partial<StudyCell>;

export function cell(description: CellDescription): StudyCell {
  return { scenario: "main", model: "sc", strategy: "dpor", because: "", ...description };
}

const BOTH_MODELS: readonly MemoryModel[] = ["sc", "tso"];

/** One question about a scenario: the property asked for, and why it comes out as expected. */
export type CellRow = readonly [scenario: string, property: string, because: string];

/** How the rows of {@link cellsOf} are alike. */
export interface CellsLike {
  readonly variant: string;
  readonly program: (scenario: string) => Program;
  readonly expected?: Expected;
  readonly models?: readonly MemoryModel[];
}

/** The cells of one variant: each row under each memory model. */
export function cellsOf(like: CellsLike, rows: readonly CellRow[]): StudyCell[] {
  const { variant, program, expected = "holds", models = BOTH_MODELS } = like;
  return rows.flatMap(([scenario, property, because]) =>
    models.map((model) =>
      cell({ variant, scenario, property, because, model, expected, program: () => program(scenario) }),
    ),
  );
}

export interface Study {
  /** What `racewalk check` is given. */
  readonly id: string;
  /** The question, in one line. */
  readonly title: string;
  /** Where it was asked: a thread, a commit. */
  readonly source: string;
  /** The variants, by name, with what distinguishes each. */
  readonly variants: Readonly<Record<string, string>>;
  readonly cells: readonly StudyCell[];
}

/** Checks that a study is complete. @throws UsageError naming what is missing */
export function study(definition: Study): Study {
  const { id, variants, cells } = definition;
  const at = `study ${JSON.stringify(id)}`;
  if (!/^[a-z0-9][a-z0-9-]*$/.test(id))
    throw new UsageError(`${at}: an id has small letters, digits and dashes only; rename it`);
  if (cells.length === 0) throw new UsageError(`${at}: has no cells; add one for each variant and scenario`);
  for (const { variant } of cells) {
    if (variants[variant] === undefined)
      throw new UsageError(`${at}: a cell names variant ${variant}; add it to variants`);
  }
  for (const name of Object.keys(variants)) {
    if (!cells.some((c) => c.variant === name))
      throw new UsageError(`${at}: variant ${name} has no cell; add one or remove it`);
  }
  const keys = cells.map((c) => `${c.variant} ${c.scenario} ${c.model} ${c.strategy}`);
  const twice = keys.find((key, i) => keys.indexOf(key) !== i);
  if (twice !== undefined)
    throw new UsageError(`${at}: two cells are both "${twice}"; give them different scenario names`);
  return definition;
}
