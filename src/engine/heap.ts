/**
 * The one flat, byte-addressed memory of a modelled world.
 *
 * Everything that the modelled kernel shares lives here: structures, lock words, page tables, page frames. A write
 * journals the word that it replaces, so an execution is undone in the time that it took to write. An address is a
 * plain number; address 0 is never handed out, so it serves as NULL.
 *
 *   0        static                arena of task 0      arena of task 1
 *   |--page--|--set-up allocates--|--task allocates...-|--...
 *
 * Each task allocates from an arena of its own, so that the address of an object does not depend on how tasks are
 * interleaved. The buffer is reserved, not touched: an unused arena costs no memory.
 */
import { assert } from "./assert.ts";
import { type Hash, newHash, xorWord } from "./hash.ts";

/** Bytes of a page of the modelled machine. */
export const PAGE_SIZE = 4096;

/** What an access touches: 1, 2, 4 or 8 bytes, naturally aligned. */
export type AccessSize = 1 | 2 | 4 | 8;

export class Heap {
  readonly bytes: number;
  words: Uint32Array;
  /** High half of the last {@link read}; the low half is returned. */
  high = 0;
  private journalWord: Uint32Array = new Uint32Array(1024);
  private journalOld: Uint32Array = new Uint32Array(1024);
  private journalLength = 0;
  private journaling = false;
  /** A hash of what differs from the initial state; null unless states are compared. */
  hash: Hash | null = null;
  /** Words that are no part of {@link hash}: pairs of the first, and the one behind the last. */
  private unhashed: readonly (readonly [from: number, end: number])[] = [];

  constructor(bytes: number) {
    assert(bytes % PAGE_SIZE === 0, `heap size ${bytes} is not a multiple of the page size`);
    this.bytes = bytes;
    this.words = new Uint32Array(bytes / 4);
  }

  /**
   * From here on memory lies at the start of `buffer`: that of a WebAssembly module, say, whose addresses then are the heap's.
   * @param used bytes at the start that were written already; the rest is zero
   */
  moveTo(buffer: ArrayBuffer, used: number): void {
    const words = new Uint32Array(buffer, 0, this.words.length);
    words.set(this.words.subarray(0, used >>> 2));
    this.words = words;
  }

  /** Returns the low half (the whole value for up to 4 bytes) and leaves the high half in {@link high}. */
  read(addr: number, size: AccessSize): number {
    const index = addr >>> 2;
    const word = this.words[index] as number;
    if (size === 8) {
      this.high = this.words[index + 1] as number;
      return word;
    }
    this.high = 0;
    if (size === 4) return word;
    const shift = (addr & 3) * 8;
    return (word >>> shift) & (size === 1 ? 0xff : 0xffff);
  }

  write(addr: number, size: AccessSize, lo: number, hi: number): void {
    const index = addr >>> 2;
    if (size === 8) {
      this.setWord(index, lo);
      this.setWord(index + 1, hi);
    } else if (size === 4) {
      this.setWord(index, lo);
    } else {
      const shift = (addr & 3) * 8;
      const mask = (size === 1 ? 0xff : 0xffff) << shift;
      this.setWord(index, ((this.words[index] as number) & ~mask) | ((lo << shift) & mask));
    }
  }

  /**
   * Copies `template` over fresh memory without journaling it: nothing can have read an object before it was
   * allocated, so there is nothing to restore when the allocation is undone.
   */
  fillFresh(addr: number, bytes: number, template: Uint32Array | null): void {
    const start = addr >>> 2;
    if (template === null) this.words.fill(0, start, start + (bytes >>> 2));
    else this.words.set(template, start);
    if (this.hash !== null && template !== null) {
      for (let i = 0; i < template.length; i++) xorWord(this.hash, start + i, template[i] as number);
    }
  }

  /** From here on {@link hash} follows what is written. */
  startHashing(): void {
    this.hash = newHash();
  }

  /**
   * Leaves memory out of what states are compared by. Only for what nobody acts upon, as counters of events: states that differ in it alone are one.
   * Set-up only; both multiples of 4.
   */
  leaveOutOfHash(addr: number, bytes: number): void {
    this.unhashed = [...this.unhashed, [addr >>> 2, (addr + bytes) >>> 2]];
  }

  /** From here on writes are journaled; what was written before is the initial state. */
  startJournal(): void {
    this.journaling = true;
    this.journalLength = 0;
  }

  /** A mark to give to {@link undoTo}. */
  get mark(): number {
    return this.journalLength;
  }

  undoTo(mark: number): void {
    for (let i = this.journalLength - 1; i >= mark; i--) {
      this.words[this.journalWord[i] as number] = this.journalOld[i] as number;
    }
    this.journalLength = mark;
  }

  private setWord(index: number, value: number): void {
    if (this.journaling) this.journalWrite(index, value);
    this.words[index] = value;
  }

  private journalWrite(index: number, value: number): void {
    const length = this.journalLength;
    if (length === this.journalWord.length) this.growJournal();
    this.journalWord[length] = index;
    this.journalOld[length] = this.words[index] as number;
    this.journalLength = length + 1;
    if (this.hash === null) return;
    for (const [from, end] of this.unhashed) if (index >= from && index < end) return;
    xorWord(this.hash, index, this.words[index] as number);
    xorWord(this.hash, index, value);
  }

  private growJournal(): void {
    const words = new Uint32Array(this.journalWord.length * 2);
    words.set(this.journalWord);
    const old = new Uint32Array(words.length);
    old.set(this.journalOld);
    this.journalWord = words;
    this.journalOld = old;
  }
}
