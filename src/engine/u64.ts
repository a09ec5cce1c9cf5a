/**
 * 64-bit values.
 *
 * Page-table entries use all 64 bits, more than a JavaScript number holds exactly. They are held as two 32-bit halves:
 * in memory side by side, little end first, as x86 does; in locals as an immutable pair. A bigint reads better and
 * costs six times as much (docs/decisions/0002-entries.md). Everything that fits 53 bits (frame numbers, addresses,
 * counters) is a plain number.
 *
 * The halves of a pair are signed: a JavaScript engine keeps a signed 32-bit number in the object itself, and each larger
 * one in an object of its own. Bit operations do not mind; who wants a half as a number writes `half >>> 0`.
 */

/** An immutable 64-bit value. Compare with {@link sameU64}, never with `===`. */
export interface U64 {
  /** Bits 63..32, as a signed number. */
  readonly hi: number;
  /** Bits 31..0, as a signed number. */
  readonly lo: number;
}

/** One above the largest value of a 32-bit half. */
export const TWO32 = 0x1_0000_0000;

/** Makes a value from its halves; bits above 31 of each half are dropped. */
export function u64(hi: number, lo: number): U64 {
  return { hi: hi | 0, lo: lo | 0 };
}

export const U64_ZERO: U64 = u64(0, 0);

export function sameU64(a: U64, b: U64): boolean {
  return a.lo === b.lo && a.hi === b.hi;
}

export function orU64(a: U64, b: U64): U64 {
  return u64(a.hi | b.hi, a.lo | b.lo);
}

export function andU64(a: U64, b: U64): U64 {
  return u64(a.hi & b.hi, a.lo & b.lo);
}

/** `a & ~b` */
export function clearU64(a: U64, b: U64): U64 {
  return u64(a.hi & ~b.hi, a.lo & ~b.lo);
}

/** True when `a` and `mask` have a bit in common. */
export function testU64(a: U64, mask: U64): boolean {
  return (a.lo & mask.lo) !== 0 || (a.hi & mask.hi) !== 0;
}

/** The single bit `n`, 0 to 63. */
export function bitU64(n: number): U64 {
  return n < 32 ? u64(0, 1 << n) : u64(1 << (n - 32), 0);
}

/** @param value a non-negative integer below 2^53 */
export function numberToU64(value: number): U64 {
  return u64(Math.floor(value / TWO32), value);
}

/** The number of these unsigned halves; most are small. */
export function numberOfHalves(hi: number, lo: number): number {
  return hi === 0 ? lo : hi * TWO32 + lo;
}

/** Exact for values below 2^53; callers use it where the value is known to fit. */
export function u64ToNumber(value: U64): number {
  return (value.hi >>> 0) * TWO32 + (value.lo >>> 0);
}

/** Lower-case hexadecimal without a prefix or leading zeroes, as `%llx` prints it. */
export function hexU64(value: U64): string {
  const low = (value.lo >>> 0).toString(16);
  return value.hi === 0 ? low : (value.hi >>> 0).toString(16) + low.padStart(8, "0");
}

/** @throws RangeError when `text` is not 1 to 16 hexadecimal digits */
export function parseHexU64(text: string): U64 {
  if (!/^[0-9a-f]{1,16}$/i.test(text)) throw new RangeError(`not a 64-bit hexadecimal number: ${text}`);
  const digits = text.padStart(16, "0");
  return u64(Number.parseInt(digits.slice(0, 8), 16), Number.parseInt(digits.slice(8), 16));
}

/** The sum modulo 2^64. */
export function addU64(a: U64, b: U64): U64 {
  const lo = (a.lo >>> 0) + (b.lo >>> 0);
  return u64(a.hi + b.hi + (lo > 0xffffffff ? 1 : 0), lo);
}
