/**
 * Assertions about racewalk itself.
 *
 * A violated property of the modelled kernel is a result (a {@link Violation}, with a schedule); a broken
 * assumption of racewalk is a bug in racewalk and throws {@link EngineBug}, which no explorer takes for a finding.
 */

/** A broken assumption of racewalk, never a finding about the program under test. */
export class EngineBug extends Error {
  override name = "EngineBug";
}

/** Bad input from outside: one line that names the place, what is wrong and how to mend it. */
export class UsageError extends Error {
  override name = "UsageError";
}

export function assert(condition: boolean, message: string): asserts condition {
  if (!condition) throw new EngineBug(message);
}

/** A property of the program under test that does not hold in this execution. */
export class Violation extends Error {
  override name = "Violation";
  /** The property's name, stable, as it appears in reports, tests and links. */
  readonly property: string;
  /** A place in the object whose end of life is what does not hold. */
  readonly place: number | null;
  constructor(property: string, message: string, place: number | null = null) {
    super(message);
    this.property = property;
    this.place = place;
  }
}
