/**
 * `--on kernel:DIR`: builds the kernel, with and without a patch, and finds out which plain accesses race.
 *
 * Plain accesses are no steps of an exploration, which is right as long as they do not race: then nobody can tell when they happen. The kernel has
 * some that do, knowingly. They are found first (the engine reports every race), and from then on these places are operations
 * like marked ones; that is repeated until none is left. What was found is told, and no verdict rests on a race that was overlooked: an exploration
 * that comes upon another one says so.
 */
import { check, UsageError } from "../engine/index.ts";
import type { LoadedStudy } from "../studies/load.ts";
import { buildKernel, cacheFolder } from "./build.ts";
import { type Image, loadImage } from "./image.ts";
import type { KernelStudy } from "./kernel-study.ts";
import { applyPatch } from "./patch.ts";
import { kernelStudy, kernelStudyIds, type RacingPlaces, studyOn } from "./studies.ts";
import { type BodyDescription, studyModuleUrl } from "./study-module.ts";
import { openTree } from "./tree.ts";

export interface OnKernelOptions {
  /** `kernel:DIR` */
  readonly on: string;
  readonly headers?: string;
  readonly patch?: string;
  /** The scenarios that will be run, if not all: the others are not looked at for races. */
  readonly scenarios?: readonly string[];
  readonly say: (text: string) => void;
}

/** Milliseconds that a search for racing accesses may take. */
const SEARCH_MS = 30_000;

/** Two accesses race when one task is stopped between what orders them and another gets there; that takes one preemption, or one more to let the task get there. */
const SEARCH_PREEMPTIONS = 2;

/** The folder of `kernel:DIR`. */
function kernelFolder(on: string): string {
  const folder = /^kernel:(.+)$/.exec(on)?.[1];
  if (folder === undefined) throw new UsageError(`--on ${on}: must be kernel:DIR, the folder of a kernel source tree`);
  return folder;
}

/** A study on the user's kernel, ready to be run. */
export async function loadStudyOnKernel(name: string, options: OnKernelOptions): Promise<LoadedStudy> {
  const definition = kernelStudy(name);
  if (definition === null) {
    throw new UsageError(`${name}: does not run on a kernel's source; name one of ${kernelStudyIds().join(", ")}`);
  }
  const { say, scenarios = definition.scenarios.map((each) => each.name) } = options;
  const searched = { ...definition, scenarios: definition.scenarios.filter((each) => scenarios.includes(each.name)) };
  const tree = openTree(kernelFolder(options.on), options.headers, cacheFolder(), say);
  const plain = await buildKernel(tree, { say });
  const bodies = [await bodyOf(searched, definition.variant, `Linux ${tree.version} as it is`, plain.image, say)];
  if (options.patch !== undefined) {
    const patch = applyPatch(options.patch, tree.root, cacheFolder());
    const patched = await buildKernel(tree, { say, patch });
    bodies.push(await bodyOf(searched, "patched", `Linux ${tree.version} with ${options.patch}`, patched.image, say));
  }
  const study = studyOn(
    name,
    definition,
    bodies.map(({ image, ...body }) => ({ ...body, image: loadImage(image) })),
  );
  return { source: { name, fileUrl: studyModuleUrl(name, bodies) }, study };
}

export interface LoadedKernel {
  /** `6.12.117` */
  readonly version: string;
  readonly image: Image;
}

/** The kernel of `--on`, patched if a patch is given: for workloads. */
export async function loadKernel(options: OnKernelOptions): Promise<LoadedKernel> {
  const { say, patch } = options;
  const tree = openTree(kernelFolder(options.on), options.headers, cacheFolder(), say);
  const patched = patch === undefined ? {} : { patch: applyPatch(patch, tree.root, cacheFolder()) };
  const built = await buildKernel(tree, { say, ...patched });
  return { version: tree.version, image: loadImage(built.image) };
}

async function bodyOf(
  definition: KernelStudy,
  variant: string,
  title: string,
  folder: string,
  say: (text: string) => void,
): Promise<BodyDescription> {
  const image = loadImage(folder);
  const racing: Record<string, readonly number[]> = {};
  const names = new Set<string>();
  for (const scenario of definition.scenarios) {
    say(`${variant}: looking for plain accesses that race in ${scenario.name}`);
    const known = Object.values(racing).flat();
    const found = await findRaces(scenario, image, known);
    racing[scenario.name] = found.places;
    for (const each of found.names) names.add(each);
  }
  if (names.size > 0) say(`${variant}: plain accesses that race, and count as marked: ${[...names].sort().join(", ")}`);
  return { variant, title, image: folder, racing: racing satisfies RacingPlaces };
}

/** Explores again and again, each time with the races of the last as operations, until there are none. */
async function findRaces(
  scenario: KernelStudy["scenarios"][number],
  image: Image,
  known: readonly number[],
): Promise<{ places: number[]; names: string[] }> {
  const places = new Set(known);
  const names: string[] = [];
  const end = performance.now() + SEARCH_MS;
  for (;;) {
    const result = await check(scenario.program(image, [...places]), {
      shouldStop: () => performance.now() > end,
      // A loop that a storm keeps going ends here; its races show in the first rounds.
      ...(scenario.strategy === "graph" ? { taskSteps: 200 } : { preemptions: SEARCH_PREEMPTIONS }),
    });
    const races = result.failures.filter(
      ({ property, addr }) => property === "data-race" && addr !== undefined && !places.has(addr),
    );
    for (const { addr, message } of races) {
      places.add(addr as number);
      names.push(/data race on ([^:]+):/.exec(message)?.[1] ?? "?");
    }
    if (races.length === 0 || performance.now() > end) return { places: [...places], names };
  }
}
