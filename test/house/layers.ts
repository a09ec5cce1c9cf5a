/**
 * Floors and what they may import.
 *
 *     engine < machine < kernel < kvm < oracle < studies, conform < litmus, source < report < cli, and the library's index on top
 */

/** A floor's height; two of the same height do not import each other. */
const HEIGHTS: Readonly<Record<string, number>> = {
  engine: 0,
  machine: 1,
  kernel: 2,
  kvm: 3,
  oracle: 4,
  studies: 5,
  conform: 5,
  // Reads its files as conform does.
  litmus: 5.5,
  source: 5.5,
  report: 6,
  cli: 7,
  "index.ts": 8,
};

/** Floors that live in their world's time and chance only. */
const TIMELESS: ReadonlySet<string> = new Set(["engine", "machine", "kernel", "kvm", "oracle"]);
const CLOCKS = /\bDate\b|\bperformance\b|\bhrtime\b|\bMath\.random\b/;

/** What modules a source imports: static, dynamic and re-exports. */
export function importsOf(source: string): string[] {
  const code = withoutComments(source);
  const found = code.matchAll(
    /(?:^|;)\s*(?:import|export)\b(?:[^"`;=()]*\bfrom)?\s*"([^"]+)"|\bimport\(\s*"([^"]+)"/gm,
  );
  return [...found].map((match) => match[1] ?? match[2] ?? "");
}

/** @returns what is wrong with a file of src/, one line each */
export function layerFaults(path: string, source: string): string[] {
  const floor = floorOf(path);
  if (HEIGHTS[floor] === undefined)
    return [`${path}: src/${floor} is no floor of the house; add it to test/house/layers.ts`];
  const faults = importsOf(source).flatMap((specifier) => importFault(path, floor, specifier));
  const clock = TIMELESS.has(floor) ? CLOCKS.exec(withoutComments(source)) : null;
  if (clock !== null) faults.push(`${path}: uses ${clock[0]}; time and chance come from the world`);
  return faults;
}

function importFault(path: string, floor: string, specifier: string): string[] {
  if (!specifier.startsWith(".")) {
    const isAllowed = floor !== "engine" || specifier.startsWith("node:");
    return isAllowed ? [] : [`${path}: imports ${specifier}; the engine imports itself and node: only`];
  }
  const target = new URL(specifier, `file:///${path}`).pathname.slice(1);
  if (!target.startsWith("src/")) return [`${path}: imports ${specifier}, outside of src`];
  const other = floorOf(target);
  const isLower = (HEIGHTS[other] ?? Number.POSITIVE_INFINITY) < (HEIGHTS[floor] ?? 0);
  return other === floor || isLower ? [] : [`${path}: imports ${specifier}; ${floor} stands below or beside ${other}`];
}

/** `src/kvm/spte.ts` is on floor kvm; a file of src itself is its own. */
function floorOf(path: string): string {
  return path.split("/")[1] ?? "";
}

/** Comments may show code, and strings may hold what looks like a comment. */
function withoutComments(source: string): string {
  return source.replace(
    /("(?:[^"\\\n]|\\.)*"|`(?:[^`\\]|\\.)*`)|\/\*[\s\S]*?\*\/|\/\/[^\n]*/g,
    (_, text) => text ?? "",
  );
}
