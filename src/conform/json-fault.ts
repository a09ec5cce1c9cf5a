/**
 * Where a text stops being JSON.
 *
 * JSON.parse() says what it did not like, but not always where. This finds the place: a descent through the grammar (RFC 8259) that
 * builds nothing and stops at the first character that cannot be. Of control characters in strings it refuses those that occur.
 */

const BLANK = /[ \t\n\r]*/y;
const STRING = /"(?:[^"\\\t\n\r]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y;
const SCALAR = /(?:true|false|null|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?)/y;

/** @returns line and column, from 1, of the first character that is wrong; of the end when something is missing there */
export function jsonFault(text: string): { readonly line: number; readonly column: number } {
  const scanner = new Scanner(text);
  if (scanner.value()) scanner.skip(BLANK);
  const before = text.slice(0, scanner.at).split("\n");
  return { line: before.length, column: (before.at(-1) ?? "").length + 1 };
}

/** Each method is true when it got past what it names; then `at` is behind it, else at the fault. */
class Scanner {
  at = 0;
  private readonly text: string;

  constructor(text: string) {
    this.text = text;
  }

  skip(pattern: RegExp): boolean {
    pattern.lastIndex = this.at;
    const match = pattern.exec(this.text);
    if (match !== null) this.at = pattern.lastIndex;
    return match !== null;
  }

  private punctuation(character: string): boolean {
    this.skip(BLANK);
    if (this.text[this.at] !== character) return false;
    this.at++;
    return true;
  }

  value(): boolean {
    if (this.punctuation("{")) return this.items("}", () => this.skip(STRING) && this.punctuation(":") && this.value());
    if (this.punctuation("[")) return this.items("]", () => this.value());
    return this.skip(STRING) || this.skip(SCALAR);
  }

  private items(close: string, item: () => boolean): boolean {
    if (this.punctuation(close)) return true;
    do {
      this.skip(BLANK);
      if (!item()) return false;
    } while (this.punctuation(","));
    return this.punctuation(close);
  }
}
