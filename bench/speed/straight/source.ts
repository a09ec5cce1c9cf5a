/** The source of modelled code without the words that make generators of it. */

/** Generators that are not steps of a thread: a module that has one stays as it is, and cannot be run this way. */
const TRUE_GENERATOR = /: Generator</;

export function straightened(source: string): string {
  if (TRUE_GENERATOR.test(source)) return source;
  return source
    .replace(/\byield\*\s*/g, "")
    .replace(/\bfunction\*/g, "function")
    .replace(/^(\s*(?:(?:private|static|readonly) )*)\*(?=[A-Za-z_]\w*[(<])/gm, "$1");
}
