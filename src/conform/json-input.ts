/**
 * Reading JSON from outside, and saying in one line what is wrong with it.
 *
 * Every file that a user hands to racewalk is parsed here or through the leaves defined here, so that a mistake in it is always
 * reported the same way: a {@link UsageError} whose message is `FILE: at PLACE: what is wrong; how to mend it`. A place is a path in the
 * document, `ops[3].par[1].addr`. The messages of the leaves below hold both halves, "what; mend".
 *
 * Numbers in these files are written as people write them: `"8M"`, `"0x1000"`, `4096`. Addresses and sizes become plain numbers (all are
 * below 2^53); values that a guest stores use all 64 bits and become {@link U64}.
 */
import { readFileSync } from "node:fs";
import { z } from "zod";
import { numberToU64, parseHexU64, type U64, UsageError, u64 } from "../engine/index.ts";
import { jsonFault } from "./json-fault.ts";

/** Makes the one line. `place` may be empty: then the fault is in the file as a whole. */
export function usageError(file: string, place: string, what: string): UsageError {
  return new UsageError(`${file}: ${place === "" ? "" : `at ${place}: `}${oneLine(what)}`);
}

function oneLine(text: string): string {
  return text.replace(/\s+/g, " ").trim();
}

/** Shows an input value in a message: JSON, at most 40 characters. */
export function show(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length <= 40 ? text : `${text.slice(0, 37)}...`;
}

/** @throws UsageError when the file cannot be read */
function readText(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    throw usageError(file, "", `cannot be read (${reason(error)}); give the path of a readable file`);
  }
}

function reason(error: unknown): string {
  return error instanceof Error ? ((error as NodeJS.ErrnoException).code ?? error.message) : String(error);
}

/** @throws UsageError when the file cannot be read or is not JSON */
export function readJson(file: string): unknown {
  const text = readText(file);
  try {
    return JSON.parse(text);
  } catch (error) {
    const message = reason(error);
    const { line, column } = jsonFault(text);
    // Newer engines quote the text in their message, or add a position; the place says it better.
    const what = message.replace(/,? (?:in JSON )?at position.*|, (?:\.\.\.)?".*/s, "");
    throw usageError(file, `line ${line} column ${column}`, `not JSON (${what}); mend the syntax`);
  }
}

/** Writes a path as it would be written in JavaScript: `ops[3].addr`. */
function placeOf(path: readonly PropertyKey[]): string {
  let place = "";
  for (const step of path) {
    if (typeof step === "number") place += `[${step}]`;
    else place += place === "" ? String(step) : `.${String(step)}`;
  }
  return place === "" ? "the top level" : place;
}

/**
 * Checks `value` against `schema`.
 *
 * @param base the path of `value` in the document
 * @throws UsageError naming the first mistake
 */
export function parse<T>(file: string, schema: z.ZodType<T>, value: unknown, base: readonly PropertyKey[] = []): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  if (issue === undefined)
    throw usageError(file, placeOf(base), "is not usable; compare it with the format's description");
  const text = issue.message.includes(";")
    ? issue.message
    : `${issue.message}; compare it with the format's description`;
  throw usageError(file, placeOf([...base, ...issue.path]), text);
}

/** A strict object: an unknown key is refused by name, with the keys there are. */
export function record<S extends z.ZodRawShape>(shape: S): z.ZodObject<S, z.core.$strict> {
  const keys = Object.keys(shape).join(", ");
  return z.strictObject(shape, {
    error: (issue) => {
      if (issue.code === "unrecognized_keys") {
        const names = (issue.keys as readonly string[]).map((key) => `"${key}"`).join(", ");
        return `unknown key ${names}; remove it or use one of ${keys}`;
      }
      return issue.code === "invalid_type" ? `expected an object, not ${show(issue.input)}; write { ... }` : undefined;
    },
  });
}

/** A list. Its items report their own faults. */
export function list<T extends z.ZodType>(item: T): z.ZodArray<T> {
  return z.array(item, { error: (issue) => `expected a list, not ${show(issue.input)}; write [ ... ]` });
}

/**
 * A scalar of the document.
 *
 * @param what names what is expected, for the message
 * @param example how to write it, for the message
 * @param read returns the value, or undefined when the input is not one
 */
export function leaf<T>(what: string, example: string, read: (input: unknown) => T | undefined) {
  return z.unknown().transform((input, context): T => {
    const value = read(input);
    if (value !== undefined) return value;
    context.addIssue(
      input === undefined
        ? `is missing; add ${what}, as ${example}`
        : `expected ${what}, not ${show(input)}; write ${example}`,
    );
    return z.NEVER;
  });
}

/** Reads `"8M"`, `"0x1000"`, `"4096"` or 4096: a non-negative integer below 2^53, in bytes where it is a size. */
export function readAmount(input: unknown): number | undefined {
  if (typeof input === "number") return Number.isSafeInteger(input) && input >= 0 ? input : undefined;
  if (typeof input !== "string") return undefined;
  const match = /^(0x[0-9a-f]+|\d+)([kmgt]?)$/i.exec(input);
  if (match === null) return undefined;
  const exponent = "kmgt".indexOf((match[2] as string).toLowerCase()) + 1;
  const amount = Number(match[1]) * 1024 ** (match[2] === "" ? 0 : exponent);
  return Number.isSafeInteger(amount) ? amount : undefined;
}

/** Reads a 64-bit value: an integer below 2^53, or a string of up to 16 hexadecimal digits behind 0x, or decimal digits. */
export function readU64(input: unknown): U64 | undefined {
  if (typeof input === "number") {
    if (!Number.isSafeInteger(input)) return undefined;
    return input >= 0 ? numberToU64(input) : u64(Math.floor(input / 0x1_0000_0000), input);
  }
  if (typeof input !== "string") return undefined;
  if (/^0x[0-9a-f]{1,16}$/i.test(input)) return parseHexU64(input.slice(2));
  if (/^\d{1,20}$/.test(input) && BigInt(input) < 1n << 64n) return parseHexU64(BigInt(input).toString(16));
  return undefined;
}

/** A non-negative size or address in bytes. */
export const amount = (what: string, example = '"0x1000"') => leaf(what, example, readAmount);

/** A 64-bit value. */
export const value64 = (what: string) => leaf(what, '"0x67"', readU64);

/** An integer from `min` to `max`, both included. */
export function integer(what: string, min: number, max: number) {
  return leaf(`${what} (${min} to ${max})`, String(min), (input) => {
    const value = typeof input === "number" ? input : readAmount(input);
    return value !== undefined && Number.isSafeInteger(value) && value >= min && value <= max ? value : undefined;
  });
}

/** true, false, 1 or 0. */
export const flag = (what: string) =>
  leaf(what, "true", (input) => {
    if (typeof input === "boolean") return input;
    return input === 1 || input === 0 ? input === 1 : undefined;
  });

export const text = (what: string, example: string) =>
  leaf(what, example, (input) => (typeof input === "string" ? input : undefined));

/** One of the given words. */
export const word = <const W extends readonly string[]>(what: string, words: W) =>
  leaf(`${what} (${words.join(", ")})`, `"${words[0]}"`, (input): W[number] | undefined =>
    words.find((candidate) => candidate === input),
  );
