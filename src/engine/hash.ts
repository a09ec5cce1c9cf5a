/**
 * 128-bit hashes of states.
 *
 * A state is a set of words of memory and a position of each task. Memory is hashed as the exclusive or of one mix for each
 * word that is not zero, so that it can be kept up to date write by write; positions are chained. At 128 bits a
 * billion states collide with a probability below 10^-20.
 */

/** Four 32-bit parts, mutable. */
export type Hash = Int32Array;

export function newHash(): Hash {
  return new Int32Array(4);
}

export function copyHash(hash: Hash): Hash {
  return hash.slice();
}

export function setHash(hash: Hash, to: Hash): void {
  hash[0] = to[0] as number;
  hash[1] = to[1] as number;
  hash[2] = to[2] as number;
  hash[3] = to[3] as number;
}

/** Keeps a hash in four words of an array, from index `at` on. */
export function storeHash(hash: Hash, array: Int32Array, at: number): void {
  array[at] = hash[0] as number;
  array[at + 1] = hash[1] as number;
  array[at + 2] = hash[2] as number;
  array[at + 3] = hash[3] as number;
}

/** Takes back what {@link storeHash} kept. */
export function loadHash(hash: Hash, array: Int32Array, at: number): void {
  hash[0] = array[at] as number;
  hash[1] = array[at + 1] as number;
  hash[2] = array[at + 2] as number;
  hash[3] = array[at + 3] as number;
}

/** Adds or removes the word `value` at `index`; a word that is zero counts as absent. */
export function xorWord(hash: Hash, index: number, value: number): void {
  if (value === 0) return;
  const a = mix(index ^ 0x9e3779b9, value);
  const b = mix(value ^ 0x85ebca6b, index ^ a);
  const c = mix(index ^ 0xc2b2ae35, value ^ b);
  const d = mix(value ^ 0x27d4eb2f, index ^ c);
  hash[0] = (hash[0] as number) ^ a;
  hash[1] = (hash[1] as number) ^ b;
  hash[2] = (hash[2] as number) ^ c;
  hash[3] = (hash[3] as number) ^ d;
}

/** Appends two words to a chained hash. */
export function chain(hash: Hash, lo: number, hi: number): void {
  const a = mix((hash[0] as number) ^ lo, hi ^ 0x165667b1);
  const b = mix((hash[1] as number) ^ a, lo ^ 0xd3a2646c);
  const c = mix((hash[2] as number) ^ b, hi ^ a);
  const d = mix((hash[3] as number) ^ c, lo ^ b);
  hash[0] = a;
  hash[1] = b;
  hash[2] = c;
  hash[3] = d;
}

/** A good mix of two words into one (the finaliser of MurmurHash3 over their combination). */
function mix(a: number, b: number): number {
  let h = Math.imul(a, 0xcc9e2d51) ^ Math.imul((b << 15) | (b >>> 17), 0x1b873593);
  h ^= h >>> 16;
  h = Math.imul(h, 0x85ebca6b);
  h ^= h >>> 13;
  h = Math.imul(h, 0xc2b2ae35);
  return h ^ (h >>> 16);
}
