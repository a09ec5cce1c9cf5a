/**
 * From a kernel tree to an image: compiles each file (unit.ts), links them with the run-time, and makes functions suspendable.
 *
 *     clang -> rewrite -> llc       each file, two at a time
 *     wasm-ld                       what is reachable from the run-time's entry points
 *     wasm-opt                      64-bit addresses as 32-bit ones, asyncify
 *
 * All results go to a cache outside of the tree: $XDG_CACHE_HOME/racewalk/kernel, by content. Nothing in the tree is changed.
 */
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, homedir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { EngineBug, UsageError } from "../engine/index.ts";
import { frontEndFlags, RUNTIME, type Unit, unitsOf } from "./flags.ts";
import { DESCRIPTION_FILE, type ImageDescription, type ImportKind, WASM_FILE } from "./image.ts";
import type { Patched } from "./patch.ts";
import { findToolchain, type Lacking, type Toolchain } from "./toolchain.ts";
import type { KernelTree } from "./tree.ts";
import { type BuiltUnit, buildUnit, sha, type UnitContext } from "./unit.ts";

/** First address of the module's data: the first object that set-up allocates lies there. */
const DATA_START = 6144;

export interface BuildOptions {
  /** A .config to use instead of the one of the headers. */
  readonly config?: string;
  readonly patch?: Patched;
  readonly say: (text: string) => void;
}

export interface Built {
  readonly kernel: string;
  readonly files: readonly string[];
  /** Folder of the image. */
  readonly image: string;
}

export function cacheFolder(): string {
  const base = process.env["XDG_CACHE_HOME"] ?? join(homedir(), ".cache");
  return join(base, "racewalk", "kernel");
}

/** The one line that says what to install. */
export function lackingText(lacking: readonly Lacking[]): string {
  const packages = [...new Set(lacking.map(({ debian }) => debian))].join(" ");
  return `needs ${lacking.map(({ what }) => what).join(", ")}; install the Debian packages: apt-get install ${packages}`;
}

/** @throws UsageError when something is missing or does not compile */
export async function buildKernel(tree: KernelTree, options: BuildOptions): Promise<Built> {
  const { toolchain, lacking } = findToolchain();
  if (toolchain === null) throw new UsageError(lackingText(lacking));
  const cache = cacheFolder();
  mkdirSync(cache, { recursive: true });
  const config = options.config === undefined ? null : writeConfig(options.config, cache);
  const context: UnitContext = {
    toolchain,
    flags: frontEndFlags(tree, config),
    root: tree.root,
    cache,
    patched: options.patch?.files ?? new Map(),
    // A header that is new goes before one that an object was made with: names count, not only what was read.
    rewriter: sha(
      ownHash(["rewrite", "metadata", "unit"]),
      ...readdirSync(join(RUNTIME, "include"), { recursive: true }).map(String).sort(),
    ),
    hashes: new Map(),
  };
  const units = unitsOf(tree);
  const built = await buildAll(units, context, options.say);
  const files = units.flatMap(({ kernelFile }) => (kernelFile === null ? [] : [kernelFile]));
  const image = link(built, tree, files, context, options.say);
  return { kernel: tree.version, files, image };
}

/** The run-time's own code decides what comes out too. */
function ownHash(modules: readonly string[]): string {
  const ending = import.meta.url.slice(import.meta.url.lastIndexOf("."));
  return sha(...modules.map((name) => readFileSync(fileURLToPath(new URL(`./${name}${ending}`, import.meta.url)))));
}

/** @returns a folder with a generated/autoconf.h made from a .config */
function writeConfig(file: string, cache: string): string {
  if (!existsSync(file)) throw new UsageError(`${file}: no such file; name the kernel's .config`);
  const lines = readFileSync(file, "utf8")
    .split("\n")
    .flatMap((line) => {
      const [, name, value] = /^(CONFIG_\w+)=(.*)$/.exec(line) ?? [];
      if (name === undefined) return [];
      return [
        value === "y" ? `#define ${name} 1` : value === "m" ? `#define ${name}_MODULE 1` : `#define ${name} ${value}`,
      ];
    });
  if (lines.length === 0) throw new UsageError(`${file}: has no CONFIG_ lines; name the kernel's .config`);
  const text = `${lines.join("\n")}\n`;
  const folder = join(cache, "configs", sha(text));
  mkdirSync(join(folder, "generated"), { recursive: true });
  writeFileSync(join(folder, "generated/autoconf.h"), text);
  return folder;
}

async function buildAll(
  units: readonly Unit[],
  context: UnitContext,
  say: (text: string) => void,
): Promise<BuiltUnit[]> {
  const built: BuiltUnit[] = [];
  let next = 0;
  const work = async (): Promise<void> => {
    while (next < units.length) {
      const index = next++;
      const unit = units[index] as Unit;
      built[index] = await buildUnit(unit, index, context);
      say(`${built.filter(Boolean).length}/${units.length} files  ${unit.kernelFile ?? unit.name}`);
    }
  };
  await Promise.all(Array.from({ length: Math.min(2, availableParallelism()) }, work));
  return built;
}

// --- linking ---------------------------------------------------------------------------------------------------------

function link(
  built: readonly BuiltUnit[],
  tree: KernelTree,
  files: readonly string[],
  context: UnitContext,
  say: (text: string) => void,
): string {
  const { cache, toolchain } = context;
  const access = readFileSync(join(RUNTIME, "access.c"));
  const key = sha(
    access,
    ownHash(["build", "image"]),
    toolchain.versions,
    tree.version,
    ...built.map((unit) => unit.key),
  );
  const folder = join(cache, "images", key);
  if (existsSync(join(folder, DESCRIPTION_FILE))) return folder;
  const part = `${folder}.part${process.pid}`;
  rmSync(part, { recursive: true, force: true });
  mkdirSync(part, { recursive: true });
  say("linking");
  const map = linkModule(built, part, toolchain);
  say("making functions suspendable");
  execFileSync(toolchain.commands.binaryen, [
    ..."--enable-memory64 --enable-mutable-globals --enable-sign-ext --memory64-lowering -O1".split(" "),
    "--asyncify",
    "--pass-arg=asyncify-imports@racewalk.operation,env.*",
    ..."-O1 -g".split(" "),
    join(part, "linked.wasm"),
    "-o",
    join(part, WASM_FILE),
  ]);
  const description = describe(built, tree, files, map, new WebAssembly.Module(readFileSync(join(part, WASM_FILE))));
  writeFileSync(join(part, DESCRIPTION_FILE), JSON.stringify(description));
  rmSync(join(part, "linked.wasm"));
  rmSync(folder, { recursive: true, force: true });
  renameSync(part, folder);
  return folder;
}

/** @returns the linker's map */
function linkModule(built: readonly BuiltUnit[], part: string, { commands }: Toolchain): string {
  const plain =
    "--target=wasm64-unknown-unknown -O2 -ffreestanding -fno-builtin -nostdlib -mmutable-globals -msign-ext -c".split(
      " ",
    );
  execFileSync(commands.clang, [...plain, join(RUNTIME, "access.c"), "-o", join(part, "access.o")]);
  writeFileSync(join(part, "missing.c"), missingVariables(built));
  execFileSync(commands.clang, [...plain, join(part, "missing.c"), "-o", join(part, "missing.o")]);
  const exported = built.flatMap(({ facts }) => [
    ...facts.defined.filter((name) => name.startsWith("rw_")),
    ...Object.keys(facts.globals).filter((name) => name.startsWith(KEPT)),
  ]);
  execFileSync(commands.linker, [
    ..."-mwasm64 --no-entry --import-memory --export-table --allow-undefined --gc-sections".split(" "),
    ...`--global-base=${DATA_START} --Map=${join(part, "map")} -z stack-size=65536`.split(" "),
    ...["__stack_pointer", "__data_end", ...OWN_VARIABLES, ...exported].map((name) => `--export=${name}`),
    ...built.map(({ object }) => object),
    ...[join(part, "access.o"), join(part, "missing.o"), "-o", join(part, "linked.wasm")],
  ]);
  return readFileSync(join(part, "map"), "utf8");
}

/** What variables of the run-time are called that are only looked at from outside. */
const KEPT = "rw_kept_";

/** Variables of access.c that the machine sets. */
const OWN_VARIABLES = [
  ..."rw_native rw_site rw_high rw_constants_from rw_constants_bytes rw_stacks_from rw_stacks_bytes".split(" "),
  ..."rw_memory_bytes rw_current rw_cpu rw_percpu_offset rw_racing rw_tracing rw_vmemmap".split(" "),
];

/** Variables of the rest of the kernel, of which only the address is used or zeros will do. */
function missingVariables(built: readonly BuiltUnit[]): string {
  const defined = new Set(built.flatMap(({ facts }) => Object.keys(facts.globals)));
  const isOwn = (name: string): boolean => OWN_VARIABLES.includes(name) || /^__st(?:art|op)_percpu$/.test(name);
  const missing = [...new Set(built.flatMap(({ facts }) => facts.variables))].filter(
    (name) => !defined.has(name) && !isOwn(name),
  );
  return missing
    .sort()
    .map((name) => `char ${name}[4096] __attribute__((aligned(64)));\n`)
    .join("");
}

function describe(
  built: readonly BuiltUnit[],
  tree: KernelTree,
  files: readonly string[],
  map: string,
  module: WebAssembly.Module,
): ImageDescription {
  const kinds = new Map<string, ImportKind>(built.flatMap(({ facts }) => Object.entries(facts.declared)));
  const wanted = WebAssembly.Module.imports(module).filter(({ module: from }) => from === "env");
  const imports = wanted.flatMap(({ name, kind }) =>
    kind === "function" ? [[name, kinds.get(name) ?? "i64"] as const] : [],
  );
  const functions = new Table();
  const sources = new Table();
  const sites = built.map(({ facts }) =>
    facts.sites.map((places) =>
      places.flatMap(([name, file, line]) => [functions.index(name), sources.index(file), line]),
    ),
  );
  const structs = Object.fromEntries(
    built.flatMap(({ facts }) =>
      Object.entries(facts.structs).map(([name, { bytes, fields }]) => [
        name,
        { bytes, fields: fields.map((field): [number, number, string] => [field.offset, field.bytes, field.name]) },
      ]),
    ),
  );
  const types = Object.assign({}, ...built.map(({ facts }) => facts.globals)) as Record<
    string,
    { readonly type: string }
  >;
  const segments = readMap(map);
  const rodata = segments.sections.get(".rodata") ?? [0, 0];
  return {
    format: 1,
    kernel: tree.version,
    files: [...files],
    imports: Object.fromEntries(imports),
    constants: [rodata[0], rodata[1]],
    dataStart: DATA_START,
    dataEnd: segments.end,
    variables: segments.variables.map(([at, bytes, name]) => [at, bytes, name, types[name]?.type ?? ""]),
    structs,
    functions: functions.names,
    sources: sources.names,
    sites,
  };
}

class Table {
  readonly names: string[] = [];
  private readonly at = new Map<string, number>();
  index(name: string): number {
    const known = this.at.get(name);
    if (known !== undefined) return known;
    this.at.set(name, this.names.length);
    return this.names.push(name) - 1;
  }
}

/** Where the linker has put sections and variables. */
function readMap(map: string): {
  readonly sections: ReadonlyMap<string, readonly [number, number]>;
  readonly variables: readonly (readonly [number, number, string])[];
  readonly end: number;
} {
  const sections = new Map<string, readonly [number, number]>();
  const variables: (readonly [number, number, string])[] = [];
  let end = DATA_START;
  for (const line of map.split("\n")) {
    const [, addr, bytes, rest] = /^ +([0-9a-f]+) +[0-9a-f]+ +([0-9a-f]+) (.*)$/.exec(line) ?? [];
    if (addr === undefined || bytes === undefined || rest === undefined) continue;
    const at = Number.parseInt(addr, 16);
    const size = Number.parseInt(bytes, 16);
    const section = /^(\.rodata|\.data|\.bss|percpu)$/.exec(rest)?.[1];
    // Per-CPU variables are one section, in which only symbols have names.
    const percpu = sections.get("percpu");
    const symbol = percpu === undefined ? undefined : /^ *(\w+)$/.exec(rest)?.[1];
    const variable = /:\(\.(?:rodata|data|bss)\.(.+)\)$/.exec(rest)?.[1];
    if (section !== undefined) {
      sections.set(section, [at, size]);
      end = Math.max(end, at + size);
    } else if (variable !== undefined) variables.push([at, size, variable]);
    else if (percpu !== undefined && symbol !== undefined && at >= percpu[0] && at < percpu[0] + percpu[1])
      variables.push([at, size, symbol]);
  }
  if (sections.size === 0) throw new EngineBug("the linker's map has no data sections");
  return { sections, variables, end };
}
