/**
 * Counterpart of src/engine/view.ts: views whose fields can be read without a cell. `view.field$value()` is what `view.field.value` is, and
 * `view.field$load()` what `load(view.field)` is; source.ts puts them in its place. A compiler removes an object that it sees die, but not hundreds of them.
 */
import type { Cell } from "../../../src/engine/cell.ts";
import { type Fields, viewMaker as makerOf, type PlacedField } from "../../../src/engine/view.ts";
import type { World } from "../../../src/engine/world.ts";
import { FIELD_ACCESS } from "./access.ts";

function directMethods({ name, offset, type: { size, wide, count } }: PlacedField): string {
  const kind = wide ? "Entry" : size === 8 ? "Number" : "Word";
  const place = `this.world, this.addr + ${offset}`;
  if (count === 0)
    return `${name}$value() { return plain${kind}(${place}); } ${name}$load() { return load${kind}(${place}); }`;
  return `${name}$value(index) {
    if (!(index >= 0 && index < ${count})) outside("${name}", index, ${count});
    return plain${kind}(${place} + index * ${size});
  }`;
}

export function viewMaker(
  cellClass: typeof Cell,
  fields: Fields,
  offsets: Readonly<Record<string, number>>,
): (world: World, addr: number) => unknown {
  return makerOf(cellClass, fields, offsets, directMethods, FIELD_ACCESS);
}
