/**
 * Cells and structures: typed views on the heap.
 *
 * A cell is one naturally aligned field. `cell.value` is a plain access, as `kvm->x` is in C: allowed where a lock or
 * being private protects it, and a reported data race where it does not. Marked accesses are operations
 * (`yield* load(cell)`). A structure is a schema that gives typed views; a view holds an address and no state.
 */
import { assert } from "./assert.ts";
import type { AccessSize } from "./heap.ts";
import { numberOfHalves, TWO32, type U64, u64 } from "./u64.ts";
import { type Fields, viewMaker } from "./view.ts";
import type { World } from "./world.ts";

export class Cell<T = number> {
  readonly world: World;
  readonly addr: number;
  readonly size: AccessSize;
  /** True when values are {@link U64} pairs, not numbers. */
  readonly wide: boolean;

  constructor(world: World, addr: number, size: AccessSize, wide: boolean) {
    this.world = world;
    this.addr = addr;
    this.size = size;
    this.wide = wide;
  }

  /** A plain access. */
  get value(): T {
    const lo = this.world.plainRead(this.addr, this.size);
    const hi = this.world.heap.high;
    return (this.wide ? u64(hi, lo) : numberOfHalves(hi, lo)) as T;
  }

  set value(value: T) {
    if (typeof value === "number") {
      this.world.plainWrite(this.addr, this.size, value >>> 0, highHalf(value));
    } else {
      const pair = value as unknown as U64;
      this.world.plainWrite(this.addr, this.size, pair.lo >>> 0, pair.hi >>> 0);
    }
  }

  /** Looks without accessing: for oracles, final predicates and reports, never for modelled code. */
  peek(): T {
    const { heap } = this.world;
    const lo = heap.read(this.addr, this.size);
    return (this.wide ? u64(heap.high, lo) : numberOfHalves(heap.high, lo)) as T;
  }

  get name(): string {
    return this.world.nameOf(this.addr);
  }
}

function highHalf(value: number): number {
  return value < TWO32 && value >= 0 ? 0 : Math.floor(value / TWO32) >>> 0;
}

/** A field's type: its size and what its value is in TypeScript. */
export interface FieldType<T> {
  readonly size: AccessSize;
  readonly wide: boolean;
  /** Elements, for an array field; 0 for a scalar. */
  readonly count: number;
  /** Only for the type checker. */
  readonly valueType?: T;
}

export const u32: FieldType<number> = { size: 4, wide: false, count: 0 };
/** A 64-bit field whose values stay below 2^53: counters, addresses, frame numbers. */
export const u53: FieldType<number> = { size: 8, wide: false, count: 0 };
/** A pointer: an address in the heap, 0 for NULL. */
export const ptr: FieldType<number> = u53;
/** A field that uses all 64 bits: page-table entries. */
export const u64Field: FieldType<U64> = { size: 8, wide: true, count: 0 };

export interface ArrayFieldType<T> extends FieldType<T> {
  readonly array: true;
}
export function arrayOf<T>(element: FieldType<T>, count: number): ArrayFieldType<T> {
  return { size: element.size, wide: element.wide, count, array: true };
}

type CellOf<F> =
  F extends ArrayFieldType<infer T> ? (index: number) => Cell<T> : F extends FieldType<infer T> ? Cell<T> : never;

/** A view on one structure: a cell for each field, and a function from index to cell for each array. */
export type View<F extends Fields> = { readonly [K in keyof F]: CellOf<F[K]> } & { readonly addr: number };

export class Struct<F extends Fields> {
  readonly name: string;
  readonly bytes: number;
  readonly offsets: Readonly<Record<string, number>>;
  private readonly fields: F;
  /** A view on the structure at an address. */
  readonly at: (world: World, addr: number) => View<F>;

  constructor(name: string, fields: F) {
    this.name = name;
    this.fields = fields;
    const offsets: Record<string, number> = {};
    let offset = 0;
    for (const [field, type] of Object.entries(fields)) {
      offset = Math.ceil(offset / type.size) * type.size;
      offsets[field] = offset;
      offset += type.size * Math.max(1, type.count);
    }
    this.bytes = Math.ceil(offset / 8) * 8;
    this.offsets = offsets;
    this.at = viewMaker(Cell, fields, offsets) as (world: World, addr: number) => View<F>;
  }

  /** Allocates a zeroed structure; `label` is what reports call it. */
  allocate(world: World, label: string = this.name): View<F> {
    return this.at(world, world.allocate(this.bytes, label, this.describe));
  }

  /** Allocates an array of them; the view of element i is `at(addr + i * bytes)`. */
  allocateArray(world: World, count: number, label: string): (index: number) => View<F> {
    const stride = this.bytes;
    const addr = world.allocate(stride * count, label, (offset) => {
      const field = this.describe(offset % stride);
      return `[${Math.floor(offset / stride)}]${field === "" ? "" : `.${field}`}`;
    });
    return (index) => {
      assert(index >= 0 && index < count, `${label}[${index}] is outside its ${count} elements`);
      return this.at(world, addr + index * stride);
    };
  }

  readonly describe = (offset: number): string => {
    let best = "";
    for (const [field, start] of Object.entries(this.offsets)) {
      const type = this.fields[field] as FieldType<unknown>;
      const end = start + type.size * Math.max(1, type.count);
      if (offset < start || offset >= end) continue;
      best = type.count === 0 ? field : `${field}[${Math.floor((offset - start) / type.size)}]`;
    }
    return best;
  };
}

/** A shared variable of its own. */
export function cell(world: World, name: string, initial = 0): Cell {
  const made = new Cell<number>(world, world.allocate(8, name), 8, false);
  if (initial !== 0) made.value = initial;
  return made;
}

/** An array of shared variables, `name[0]` on. */
export function cells(world: World, name: string, count: number): Cell[] {
  const addr = world.allocate(8 * count, name, (offset) => `[${offset >>> 3}]`);
  return Array.from({ length: count }, (_, i) => new Cell<number>(world, addr + 8 * i, 8, false));
}

/** The page of 512 entries at `addr`, as cells. */
export function entryCell(world: World, table: number, index: number): Cell<U64> {
  return new Cell<U64>(world, table + 8 * index, 8, true);
}
