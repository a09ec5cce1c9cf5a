/**
 * What the VMM's memory contains: the plain reference for the host mm.
 *
 * Pages of a memory in a row, each with its protection and one word, the eight bytes at its start: what operations write there is what they must
 * find there later, whatever the host mm did in between with frames, huge pages, copies, swap and merged pages.
 */
import type { HostOperation } from "../../src/conform/operation.ts";
import type { OperationResult } from "../../src/conform/run.ts";
import type { Workload } from "../../src/conform/workload.ts";
import { hexU64, type U64 } from "../../src/engine/index.ts";

const PAGE = 4096;
const EFAULT = 14;
/** The byte that `touch` writes. */
const TOUCHED = 0x77n;
const LOW_BYTE = 0xffn;

/** A page's word. Shared by whoever maps the same page of a file. */
interface Word {
  /** Null: either of two values, until it is written whole. */
  value: bigint | null;
}

export interface HostPage {
  readonly readable: boolean;
  readonly writable: boolean;
  readonly word: Word;
}

type Ranged = { readonly mem: number; readonly offset: number; readonly len: number | null };

export class HostReference {
  /** By memory; null where nothing is mapped. */
  private readonly pages = new Map<number, (HostPage | null)[]>();
  /** By memory: the file's own pages. */
  private readonly files = new Map<number, Word[]>();

  constructor({ memory }: Workload) {
    for (const { slot, size, backing } of memory) {
      const words = Array.from({ length: size / PAGE }, (): Word => ({ value: 0n }));
      if (backing === "memfd") this.files.set(slot, words);
      this.pages.set(
        slot,
        words.map((word) => ({ readable: true, writable: true, word })),
      );
    }
  }

  pageAt(memory: number, index: number): HostPage | null {
    return this.pages.get(memory)?.[index] ?? null;
  }

  private range({ mem, offset, len }: Ranged): { readonly pages: (HostPage | null)[]; first: number; end: number } {
    const pages = this.pages.get(mem) as (HostPage | null)[];
    const end = len === null ? pages.length : Math.ceil((offset + len) / PAGE);
    return { pages, first: Math.floor(offset / PAGE), end };
  }

  /** Carries the operation out; what is wrong with the result, or null. */
  apply(operation: HostOperation, result: OperationResult): string | null {
    switch (operation.host) {
      case "touch":
        return this.touch(operation, operation.write, result);
      case "poke":
        return this.poke(operation, bigOf(operation.value), result);
      case "poke_ret":
        // The stub lies beside the word.
        return this.poke(operation, null, result);
      case "peek":
        return this.peek(operation, result);
      case "mprotect":
        if (result["rc"] === 0) {
          this.protect(operation, operation.prot !== "none", operation.prot.includes("w"));
        }
        return null;
      case "munmap":
        this.fill(operation, () => null);
        return null;
      case "mmap_fixed":
        this.fill(operation, () => ({ readable: true, writable: true, word: { value: 0n } }));
        return null;
      case "mremap_swap":
        if (result["rc"] === 0) this.move(operation, operation.to);
        return null;
      case "punch":
        this.punch(operation, result);
        return null;
      case "madvise":
        this.advise(operation, operation.advice, result);
        return null;
      default:
        return null;
    }
  }

  /** What the VMM, or a guest by way of a slot that may be written, stores. */
  store(memory: number, index: number, value: bigint): void {
    const page = this.pageAt(memory, index);
    if (page !== null) page.word.value = value;
  }

  private touch(range: Ranged, write: boolean, result: OperationResult): string | null {
    const { pages, first, end } = this.range(range);
    for (let i = first; i < end; i++) {
      const page = pages[i];
      if (!(write ? page?.writable : page?.readable)) return expectRc(result, -EFAULT);
      const word = page?.word;
      if (write && word !== undefined && word.value !== null) word.value = (word.value & ~LOW_BYTE) | TOUCHED;
    }
    return expectRc(result, 0);
  }

  private poke(
    { mem, offset, count, stride }: Ranged & { readonly count: number; readonly stride: number },
    value: bigint | null,
    result: OperationResult,
  ): string | null {
    for (let i = 0; i < count; i++) {
      const page = this.pageAt(mem, Math.floor((offset + i * stride) / PAGE));
      if (!page?.writable) return expectRc(result, -EFAULT);
      if (value !== null) page.word.value = value;
    }
    return expectRc(result, 0);
  }

  private peek({ mem, offset }: Ranged, result: OperationResult): string | null {
    const page = this.pageAt(mem, offset / PAGE);
    if (!page?.readable) return expectRc(result, -EFAULT);
    const wanted = page.word.value;
    if (wanted !== null && BigInt(String(result["value"])) !== wanted) {
      return `the VMM reads ${String(result["value"])}, not 0x${wanted.toString(16)}`;
    }
    return expectRc(result, 0);
  }

  private fill(range: Ranged, make: (old: HostPage | null) => HostPage | null): void {
    const { pages, first, end } = this.range(range);
    for (let i = first; i < end; i++) pages[i] = make(pages[i] ?? null);
  }

  private protect(range: Ranged, readable: boolean, writable: boolean): void {
    this.fill(range, (old) => (old === null ? null : { ...old, readable, writable }));
  }

  private move(range: Ranged, to: number): void {
    const { pages, first, end } = this.range(range);
    const moved = pages.slice(first, end);
    this.fill(range, () => null);
    pages.splice(to / PAGE, moved.length, ...moved);
  }

  private punch(range: Ranged, result: OperationResult): void {
    const words = this.files.get(range.mem);
    if (words === undefined || result["rc"] !== 0) return;
    const { first, end } = this.range(range);
    for (const word of words.slice(first, end)) word.value = 0n;
  }

  private advise(range: Ranged, advice: string, result: OperationResult): void {
    if (advice === "remove") this.punch(range, result);
    if (advice !== "dontneed" && advice !== "free") return;
    // Of a file that is mapped shared only the mapping goes.
    const words = new Set(this.files.get(range.mem));
    this.fill(range, (old) => {
      if (old === null || words.has(old.word)) return old;
      return { ...old, word: { value: advice === "free" ? null : 0n } };
    });
  }
}

function expectRc(result: OperationResult, rc: number): string | null {
  return result["rc"] === rc ? null : `returns ${String(result["rc"])}, not ${rc}`;
}

/** A value of 64 bits as one number. */
export function bigOf(value: U64): bigint {
  return BigInt(`0x${hexU64(value)}`);
}
