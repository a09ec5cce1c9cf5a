/**
 * Reads files of litmus tests. There are two kinds (docs/litmus.md):
 *
 *     [ {"name": .., "program": .. or "threads": .., "exists": .., "verdict": .., "executions": ..}, .. ]      tests one by one
 *     { "columns": ["name", "program", "exists", "sc", "tso", ..], "rows": [[..], ..] }                        many, a row each
 */
import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { integer, leaf, list, parse, readJson, record, text, usageError, word } from "../conform/json-input.ts";
import type { MemoryModel } from "../engine/index.ts";
import type { Expected, FinalState, Instruction, LitmusTest, Operand } from "./litmus-test.ts";
import { parseCondition, parseProgram, parseState, TextFault } from "./text.ts";

/** Paths of the test files that a path stands for: itself, or every .json file in the folder. @throws UsageError */
export function litmusFiles(path: string): string[] {
  if (!isFolder(path)) return [path];
  const names = readdirSync(path, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".json"));
  if (names.length === 0) throw usageError(path, "", "has no .json file in it; give a file or folder of litmus tests");
  return names.sort().map((name) => join(path, name));
}

function isFolder(path: string): boolean {
  try {
    return statSync(path).isDirectory();
  } catch {
    // Whoever reads it says why it cannot be read.
    return false;
  }
}

/** The tests of a file. @throws UsageError naming the file, the place and the mend */
export function readLitmusFile(file: string): LitmusTest[] {
  const document = readJson(file);
  const tests = Array.isArray(document) ? readTests(file, document) : readTable(file, document);
  if (tests.length === 0) throw usageError(file, "", "has no test in it; add one");
  return tests;
}

// --- tests one by one ------------------------------------------------------------------------------------------------

const NUMBER_MAX = Number.MAX_SAFE_INTEGER;
const value = integer("a value", 0, NUMBER_MAX);
const location = leaf("a location", '"x"', (input) =>
  typeof input === "string" && /^[A-Za-z_]\w*$/.test(input) && !/^r\d+$/.test(input) ? input : undefined,
);
const register = leaf("a register", '"r0"', (input) =>
  typeof input === "string" && /^r\d+$/.test(input) ? input : undefined,
);
const operand = leaf("a value or register", '1 or "r0"', (input): Operand | undefined => {
  if (typeof input === "string" && /^r\d+$/.test(input)) return input;
  return typeof input === "number" && Number.isSafeInteger(input) && input >= 0 ? input : undefined;
});
const name = text("a name", '"SB"');
const note = text("a note", '"what it shows"');

/** Final states, and alternatives of a condition. */
const state = z
  .record(z.string(), value, { error: () => 'expected values by name; write {"x": 1, "0:r0": 0}' })
  .superRefine((values, context) => {
    const wrong = Object.keys(values).find((key) => !/^(?:\d+:r\d+|[A-Za-z_]\w*)$/.test(key));
    if (wrong === undefined) return;
    context.addIssue(`"${wrong}" is no register or location; write "1:r0" or "x"`);
  });
const initial = z.record(location, value, { error: () => 'expected values by location; write {"x": 1}' });

const SHAPES: Readonly<Record<string, readonly z.ZodType[]>> = {
  W: [location, operand],
  R: [register, location],
  MF: [],
  XCHG: [register, location, operand],
  XADD: [register, location, operand],
  CAS: [register, location, operand, operand],
  OR: [location, operand],
  AND: [location, operand],
  NOPLOCK: [location],
};

/** An instruction as an array: its name, then what it works on. */
const instruction = list(z.unknown()).transform((parts, context): Instruction => {
  const [kind, ...rest] = parts;
  const shape = typeof kind === "string" ? SHAPES[kind] : undefined;
  if (typeof kind !== "string" || shape === undefined) {
    context.addIssue(`${JSON.stringify(kind)} is no instruction; use one of ${Object.keys(SHAPES).join(", ")}`);
    return z.NEVER;
  }
  if (rest.length !== shape.length) {
    context.addIssue(`${kind} has ${rest.length} operands; it takes ${shape.length}`);
    return z.NEVER;
  }
  const operands = shape.map((type, i) => {
    const result = type.safeParse(rest[i]);
    if (!result.success)
      context.addIssue({ code: "custom", message: result.error.issues[0]?.message ?? "", path: [i + 1] });
    return result.data as Operand;
  });
  return context.issues.length > 0 ? z.NEVER : build(kind, operands);
});

function build(kind: string, operands: readonly Operand[]): Instruction {
  const [a = "", b = "", c = "", d = ""] = operands;
  const name = (operand: Operand): string => String(operand);
  switch (kind) {
    case "W":
      return { kind: "store", location: name(a), value: b };
    case "R":
      return { kind: "load", register: name(a), location: name(b) };
    case "MF":
      return { kind: "fence" };
    case "XCHG":
    case "XADD":
      return { kind: kind === "XCHG" ? "xchg" : "xadd", register: name(a), location: name(b), value: c };
    case "CAS":
      return { kind: "cas", register: name(a), location: name(b), expected: c, value: d };
    case "OR":
    case "AND":
      return { kind: kind === "OR" ? "or" : "and", location: name(a), value: b };
    default:
      return { kind: "nop", location: name(a) };
  }
}

/** Texts are read where they stand, so that a fault in one has its place. */
function readBy<T>(what: string, example: string, read: (source: string) => T) {
  return text(what, example).transform((source, context): T => {
    try {
      return read(source);
    } catch (error) {
      if (!(error instanceof TextFault)) throw error;
      context.addIssue(error.message);
      return z.NEVER;
    }
  });
}

const programText = readBy("a program", '"x=1; r0=y || y=1; r0=x"', parseProgram);
const conditionText = readBy("a condition", '"0:r0=0 & 1:r0=0"', parseCondition);
const verdictWord = word("a verdict", ["allowed", "forbidden"]);
const count = integer("a number of executions", 0, NUMBER_MAX);
const byModel = <T extends z.ZodType>(type: T) => record({ sc: type.optional(), tso: type.optional() });

const condition = z.union([list(state), conditionText], {
  error: () => 'expected a list of alternatives or a text; write [{"0:r0": 0, "1:r0": 0}] or "0:r0=0 & 1:r0=0"',
});

const testSchema = record({
  name,
  family: note.optional(),
  source: note.optional(),
  note: note.optional(),
  program: z.unknown().optional(),
  init: initial.optional(),
  threads: list(list(instruction)).optional(),
  exists: z.unknown().optional(),
  verdict: byModel(verdictWord).optional(),
  executions: byModel(count).optional(),
  final_states_sc: list(state).optional(),
  final_states_tso_only: list(state).optional(),
  checked_by: list(note).optional(),
});

function readTests(file: string, document: readonly unknown[]): LitmusTest[] {
  return document.map((item, i) => {
    const test = parse(file, testSchema, item, [i]);
    const program =
      test.program === undefined && test.threads !== undefined
        ? undefined
        : parse(file, programText, test.program, [i, "program"]);
    const threads = test.threads ?? program ?? [];
    if (program !== undefined && JSON.stringify(program) !== JSON.stringify(threads)) {
      throw usageError(file, `[${i}].threads`, "differs from the program in text; mend one, or leave it out");
    }
    const exists = readCondition(file, test.exists, [i, "exists"]);
    const { final_states_sc: sc = null, final_states_tso_only: more = null } = test;
    const tso = sc === null || more === null ? null : [...sc, ...more];
    const expected = (model: MemoryModel, finalStates: readonly FinalState[] | null): Expected => ({
      observable: observableBy(test.verdict?.[model]),
      executions: test.executions?.[model] ?? null,
      finalStates,
    });
    return checked(file, [i], {
      name: test.name,
      source: `${file}: [${i}]`,
      threads,
      init: test.init ?? {},
      exists,
      expected: { sc: expected("sc", sc), tso: expected("tso", tso) },
    });
  });
}

function readCondition(file: string, input: unknown, place: readonly PropertyKey[]): FinalState[] {
  if (typeof input === "string") return parse(file, conditionText, input, place);
  return Array.isArray(input) ? parse(file, list(state), input, place) : parse(file, condition, input, place);
}

function observableBy(verdict: "allowed" | "forbidden" | undefined): boolean | null {
  return verdict === undefined ? null : verdict === "allowed";
}

/** A test that asks for what it does not have is a mistake of its author. */
function checked(file: string, place: readonly PropertyKey[], test: LitmusTest): LitmusTest {
  const at = place.map((step) => (typeof step === "number" ? `[${step}]` : String(step))).join("");
  if (test.threads.length > THREADS_MAX) {
    throw usageError(file, at, `${test.threads.length} threads; write at most ${THREADS_MAX}`);
  }
  for (const key of test.exists.flatMap((alternative) => Object.keys(alternative))) {
    const [thread, register] = key.split(":");
    if (register === undefined || test.threads[Number(thread)] !== undefined) continue;
    throw usageError(file, `${at}.exists`, `"${key}" names thread ${thread}; there are ${test.threads.length}, from 0`);
  }
  return test;
}

const THREADS_MAX = 15;

// --- many, a row each ------------------------------------------------------------------------------------------------

const tableSchema = record({ columns: list(name), rows: list(list(z.unknown())) });

const COLUMNS = ["name", "program", "exists", "sc", "tso", "executions_sc", "executions_tso", "init"] as const;
type Column = (typeof COLUMNS)[number];
const NEEDED: readonly Column[] = ["name", "program", "exists"];

function readTable(file: string, document: unknown): LitmusTest[] {
  const { columns, rows } = parse(file, tableSchema, document);
  // "init (only if not all zero)": what stands in brackets is for people.
  const known = columns.map((column, i) => {
    const found = COLUMNS.find((candidate) => candidate === column.replace(/\s*\(.*\)$/, ""));
    if (found === undefined) {
      throw usageError(file, `columns[${i}]`, `unknown column "${column}"; use ${COLUMNS.join(", ")}`);
    }
    return found;
  });
  const missing = NEEDED.find((column) => !known.includes(column));
  if (missing !== undefined) throw usageError(file, "columns", `lacks "${missing}"; add it`);
  return rows.map((row, i) => readRow(file, known, row, i));
}

function readRow(file: string, columns: readonly Column[], row: readonly unknown[], i: number): LitmusTest {
  if (row.length > columns.length) {
    throw usageError(file, `rows[${i}]`, `${row.length} values for ${columns.length} columns; remove the others`);
  }
  const read = <T>(column: Column, type: z.ZodType<T>): T | undefined => {
    const k = columns.indexOf(column);
    const input = k < 0 ? undefined : row[k];
    const isAbsent = input === undefined || input === null;
    return isAbsent && !NEEDED.includes(column) ? undefined : parse(file, type, input, ["rows", i, k]);
  };
  const expected = (model: MemoryModel): Expected => ({
    observable: observableBy(read(model, verdictWord)),
    executions: read(`executions_${model}`, count) ?? null,
    finalStates: null,
  });
  const init = columns.includes("init") ? row[columns.indexOf("init")] : undefined;
  return checked(file, ["rows", i], {
    name: read("name", name) ?? "",
    source: `${file}: rows[${i}]`,
    threads: read("program", programText) ?? [],
    init: typeof init === "string" ? (read("init", initialText) ?? {}) : (read("init", initial) ?? {}),
    exists: readCondition(file, row[columns.indexOf("exists")], ["rows", i, columns.indexOf("exists")]),
    expected: { sc: expected("sc"), tso: expected("tso") },
  });
}

const initialText = readBy("initial values", '"x=1"', parseState);
