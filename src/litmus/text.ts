/**
 * The text form of litmus tests.
 *
 *     x=1; mf; r0=y || r1=xchg(y,1); r0=cas(x,0,r1)       a program: threads, and instructions in them
 *     0:r0=0 & 1:r0=0 | x=2                               a condition: alternatives of values that hold together
 */
import type { FinalState, Instruction, Operand } from "./litmus-test.ts";

/** What a text that cannot be read has wrong, and how to mend it: "what; mend". */
export class TextFault extends Error {
  override name = "TextFault";
}

const NAME = "[A-Za-z_]\\w*";
const REGISTER = "r\\d+";
const OPERAND = `(?:${REGISTER}|\\d+)`;

const FORMS: readonly (readonly [RegExp, (parts: readonly string[]) => Instruction])[] = [
  [/^mf(?:ence)?$/, () => ({ kind: "fence" })],
  [
    form(`(or|and)\\((${NAME}),(${OPERAND})\\)`),
    ([kind = "", location = "", value = ""]) => ({
      kind: kind as "or" | "and",
      location,
      value: operand(value),
    }),
  ],
  [form(`nop\\((${NAME})\\)`), ([location = ""]) => ({ kind: "nop", location })],
  [
    form(`(${REGISTER})=(xchg|xadd)\\((${NAME}),(${OPERAND})\\)`),
    ([register = "", kind = "", location = "", value = ""]) => ({
      kind: kind as "xchg" | "xadd",
      register,
      location,
      value: operand(value),
    }),
  ],
  [
    form(`(${REGISTER})=cas\\((${NAME}),(${OPERAND}),(${OPERAND})\\)`),
    ([register = "", location = "", expected = "", value = ""]) => ({
      kind: "cas",
      register,
      location,
      expected: operand(expected),
      value: operand(value),
    }),
  ],
  [
    form(`(${REGISTER})=(?!${REGISTER}$)(${NAME})`),
    ([register = "", location = ""]) => ({ kind: "load", register, location }),
  ],
  [
    form(`(?!${REGISTER}=)(${NAME})=(${OPERAND})`),
    ([location = "", value = ""]) => ({
      kind: "store",
      location,
      value: operand(value),
    }),
  ],
];

function form(pattern: string): RegExp {
  return new RegExp(`^${pattern}$`);
}

function operand(text: string): Operand {
  return /^\d/.test(text) ? Number(text) : text;
}

/** @throws TextFault */
export function parseProgram(text: string): Instruction[][] {
  return text.split("||").map((thread) =>
    thread
      .split(";")
      .map((instruction) => instruction.replace(/\s+/g, ""))
      .filter((instruction) => instruction !== "")
      .map(parseInstruction),
  );
}

function parseInstruction(text: string): Instruction {
  for (const [pattern, build] of FORMS) {
    const match = pattern.exec(text);
    if (match !== null) return build(match.slice(1));
  }
  throw new TextFault(
    `"${text}" is no instruction; write x=1, r0=x, mf, r0=xchg(x,1), r0=xadd(x,1), r0=cas(x,0,1), or(x,1), and(x,1) or nop(x)`,
  );
}

const VALUE = new RegExp(`^(\\d+:${REGISTER}|${NAME})=(\\d+)$`);

/** Reads values that hold together: "x=2 & 1:r0=0". @throws TextFault */
export function parseState(text: string): FinalState {
  const entries = text
    .split(/&&?|\/\\|;|,/)
    .map((part) => part.replace(/[\s()]+/g, ""))
    .filter((part) => part !== "")
    .map((part): [string, number] => {
      const match = VALUE.exec(part);
      if (match === null) throw new TextFault(`"${part}" is no value; write x=1 or 1:r0=0, joined by &`);
      return [match[1] ?? "", Number(match[2])];
    });
  return Object.fromEntries(entries);
}

/** Reads a condition, as its alternatives. @throws TextFault */
export function parseCondition(text: string): FinalState[] {
  return text.split(/\|\|?|\\\//).map(parseState);
}
