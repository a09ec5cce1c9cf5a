/**
 * What a litmus test is: a few instructions on each of a few CPUs, and a question about the final state.
 *
 * Registers are private to a thread and begin at 0, as do locations that `init` does not name.
 */
import type { MemoryModel } from "../engine/index.ts";

/** A number, or the register that holds it. */
export type Operand = number | string;

export type Instruction =
  | { readonly kind: "store"; readonly location: string; readonly value: Operand }
  | { readonly kind: "load"; readonly register: string; readonly location: string }
  | { readonly kind: "fence" }
  | {
      readonly kind: "xchg" | "xadd";
      readonly register: string;
      readonly location: string;
      readonly value: Operand;
    }
  | {
      /** The register gets the value found. */
      readonly kind: "cas";
      readonly register: string;
      readonly location: string;
      readonly expected: Operand;
      readonly value: Operand;
    }
  | { readonly kind: "or" | "and"; readonly location: string; readonly value: Operand }
  /** A locked instruction that changes nothing: a locked add of zero. */
  | { readonly kind: "nop"; readonly location: string };

/** Values of registers ("1:r0") and locations ("x"). */
export type FinalState = Readonly<Record<string, number>>;

export interface LitmusTest {
  readonly name: string;
  /** File and place in it, for messages. */
  readonly source: string;
  readonly threads: readonly (readonly Instruction[])[];
  readonly init: Readonly<Record<string, number>>;
  /** It holds in a final state that satisfies any of these entirely. */
  readonly exists: readonly FinalState[];
  /** What is known of it; null where nobody has said. */
  readonly expected: Readonly<Record<MemoryModel, Expected>>;
}

export interface Expected {
  /** The condition can hold. */
  readonly observable: boolean | null;
  /** Execution graphs. */
  readonly executions: number | null;
  /** Every final state. */
  readonly finalStates: readonly FinalState[] | null;
}

/** Locations of a test, sorted: those that it touches, initialises or asks for. */
export function locationsOf(test: Pick<LitmusTest, "threads" | "init" | "exists">): string[] {
  const names = new Set(Object.keys(test.init));
  for (const instruction of test.threads.flat()) if (instruction.kind !== "fence") names.add(instruction.location);
  for (const name of test.exists.flatMap((state) => Object.keys(state))) if (!name.includes(":")) names.add(name);
  return [...names].sort();
}

/** Registers that a thread writes, as "1:r0". */
export function registersOf(thread: readonly Instruction[], index: number): string[] {
  const names = thread.flatMap((instruction) => ("register" in instruction ? [instruction.register] : []));
  return [...new Set(names)].map((name) => `${index}:${name}`);
}
