/** The source of modelled code without the words that make generators of it, and in a form that a compiler can see through. */

/** Generators that are not steps of a thread: a module that has one stays as it is, and cannot be run this way. */
const TRUE_GENERATOR = /: Generator</;

export function straightened(source: string): string {
  if (TRUE_GENERATOR.test(source)) return source;
  return source
    .replace(/\byield\*\s*/g, "")
    .replace(/\bfunction\*/g, "function")
    .replace(/^(\s*(?:(?:private|static|readonly) )*)\*(?=[A-Za-z_]\w*[(<])/gm, "$1");
}

/** Where a structure says what fields it has, and where something else has a cell of its own. */
const FIELD = /\b(\w+): (?:u32|u53|ptr|u64Field|arrayOf\()/g;
const CELL = /\b(\w+)\??(?:\(\))?: (?:readonly )?Cell(?:Type)?\b/g;

/** Names that are fields of structures in these sources, and nothing else's. */
export function fieldNames(sources: readonly string[]): ReadonlySet<string> {
  const namesIn = (pattern: RegExp): string[] =>
    sources.flatMap((source) => [...source.matchAll(pattern)].map(([, name]) => name as string));
  const cells = new Set(namesIn(CELL));
  return new Set(namesIn(FIELD).filter((name) => !cells.has(name)));
}

/**
 * Reads of a structure's field need no cell (view.ts): `slot.flags.value` becomes `slot.flags$value()`, and `load(sp.role)` `sp.role$load()`.
 * @param fields see {@link fieldNames}
 */
export function withoutCells(source: string, fields: ReadonlySet<string>): string {
  return source
    .replace(
      /\.(\w+)(?:\(([^()]*)\))?\.value\b(?!\s*(?:=[^=]|[-+*/%&|^]=|\+\+|--))/g,
      (text, name: string, index: string | undefined) => (fields.has(name) ? `.${name}$value(${index ?? ""})` : text),
    )
    .replace(/\bload\(([\w.]+)\.(\w+)\)/g, (text, view: string, name: string) =>
      fields.has(name) ? `${view}.${name}$load()` : text,
    );
}

/**
 * A field that a class declares and its constructor sets is `undefined` first, in JavaScript: an engine then takes it for a field that holds anything.
 * @param javascript a module without its types
 */
export function withoutEmptyFields(javascript: string): string {
  return javascript.replace(/^ +(?!return\b|break\b|continue\b)\w+\s*;$/gm, "");
}

/**
 * Every name of a module's top level is a constant of that module: an imported or exported one is a place that may change, which is looked up and
 * compared at every call; a constant's value is compiled in. What is imported, and when, stays.
 * @param javascript a module without its types
 */
export function withConstants(javascript: string): string {
  const first: string[] = [];
  const last: string[] = [];
  const text = javascript
    .replace(/^import (\{[^}]*\}) from/gm, (_, names: string) => {
      const renamed = names.replace(/(\w+)(?: as (\w+))?\s*(?=[,}])/g, (_one, name: string, local: string = name) => {
        first.push(`${local} = ${local}$`);
        return `${name} as ${local}$`;
      });
      return `import ${renamed} from`;
    })
    .replace(
      /^(export )?((?:async )?function\*?) (\w+)/gm,
      (_, exported: string | undefined, kind: string, name: string) => {
        first.push(`${name} = ${name}$`);
        if (exported !== undefined) last.push(`${name}$ as ${name}`);
        return `${kind} ${name}$`;
      },
    )
    .replace(/^(export )?class (\w+)([\s\S]*?)^\}/gm, (_, exported: string | undefined, name: string, rest: string) => {
      if (exported === undefined) return `const ${name} = class ${name}${rest}};`;
      last.push(`${name}$ as ${name}`);
      return `const ${name}$ = class ${name}${rest}}; const ${name} = ${name}$;`;
    });
  const exports = [...text.matchAll(/^export const (\w+)/gm)].map(([, name]) => name as string);
  const constants = exports.map((name) => `const ${name}$ = ${name}; export { ${name}$ as ${name} };`);
  const head = first.length === 0 ? "" : `const ${first.join(", ")}; `;
  return `${head}${text.replace(/^export const /gm, "const ")}\nexport { ${last.join(", ")} };\n${constants.join("\n")}`;
}
