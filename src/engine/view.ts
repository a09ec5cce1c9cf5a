/**
 * The classes of the views on structures (cell.ts), made from their text.
 *
 * A compiler remembers what it has seen by place in the source: classes that share their accessors' source share that memory, and none is fast.
 */
import { EngineBug } from "./assert.ts";
import type { Cell, FieldType } from "./cell.ts";
import type { World } from "./world.ts";

export type Fields = Readonly<Record<string, FieldType<unknown>>>;

/** One field, as the text of a class sees it. */
export interface PlacedField {
  readonly name: string;
  readonly offset: number;
  readonly type: FieldType<unknown>;
}

/** The text of more methods for a field. */
export type MoreMethods = (field: PlacedField) => string;

/** @param more further methods, which may use the names of `helpers` */
export function viewMaker(
  cellClass: typeof Cell,
  fields: Fields,
  offsets: Readonly<Record<string, number>>,
  more: MoreMethods = () => "",
  helpers: Readonly<Record<string, unknown>> = {},
): (world: World, addr: number) => unknown {
  const methods = Object.entries(fields).map(([name, type]) => {
    const field = { name, type, offset: offsets[name] as number };
    return `${accessorOf(field)}\n${more(field)}`;
  });
  const known = { Cell: cellClass, outside, ...helpers };
  const names = Object.keys(known);
  // Constants, not parameters: those could be assigned to, so that a compiler would look each time.
  const text = `const ${names.map((name) => `${name} = known.${name}`).join(", ")};
  class View {
    constructor(world, addr) {
      this.world = world;
      this.addr = addr;
    }
    ${methods.join("\n")}
  }
  return (world, addr) => new View(world, addr);`;
  // oxlint-disable-next-line typescript/no-implied-eval -- the text is of names and numbers of structures in this source
  return new Function("known", text)(known) as (world: World, addr: number) => unknown;
}

function accessorOf({ name, offset, type: { size, wide, count } }: PlacedField): string {
  if (count === 0) return `get ${name}() { return new Cell(this.world, this.addr + ${offset}, ${size}, ${wide}); }`;
  return `get ${name}() {
    return (index) => {
      if (!(index >= 0 && index < ${count})) outside("${name}", index, ${count});
      return new Cell(this.world, this.addr + ${offset} + index * ${size}, ${size}, ${wide});
    };
  }`;
}

function outside(field: string, index: number, count: number): never {
  throw new EngineBug(`${field}[${index}] is outside its ${count} elements`);
}
