/**
 * One object file: front end, rewriting, back end; kept by the content of all that went into it.
 *
 * What went into an object is known once it was compiled (the front end lists the headers that it read), so a record from last time names the
 * files, and the object is taken again when each still has the content that it had.
 */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { UsageError } from "../engine/index.ts";
import type { Unit } from "./flags.ts";
import type { ImportKind } from "./image.ts";
import type { Place, StructLayout } from "./metadata.ts";
import { rewrite } from "./rewrite.ts";
import type { Toolchain } from "./toolchain.ts";

const run = promisify(execFile);

/** Sites of a unit: more than the largest file of the kernel needs. */
const SITES_A_UNIT = 0x10000;

/** Structures whose fields reports name, beside those of global variables. */
const STRUCTS = [
  "kvm",
  "kvm_vcpu",
  "kvm_mmu_page",
  "kvm_memory_slot",
  "kvm_memslots",
  "gfn_to_pfn_cache",
  "page",
  "mm_struct",
  "kvm_mmu",
  "task_struct",
];

/** What an event's structure is called (runtime/include/racewalk-events.h). */
const EVENT_STRUCT = "rw_event_";

/** What the linker and reports want to know of an object. */
export interface UnitFacts {
  readonly sites: readonly (readonly Place[])[];
  readonly declared: Readonly<Record<string, ImportKind>>;
  readonly defined: readonly string[];
  readonly variables: readonly string[];
  readonly globals: Readonly<Record<string, { readonly bytes: number; readonly type: string }>>;
  readonly structs: Readonly<Record<string, StructLayout>>;
}

export interface BuiltUnit {
  readonly unit: Unit;
  readonly object: string;
  readonly facts: UnitFacts;
  /** Stands for the content of everything that went in. */
  readonly key: string;
}

/** Everything that a build's units have in common. */
export interface UnitContext {
  readonly toolchain: Toolchain;
  readonly flags: readonly string[];
  readonly root: string;
  /** Folder of the cache. */
  readonly cache: string;
  /** Content of files that a patch changes, by path. */
  readonly patched: ReadonlyMap<string, { readonly hash: string; readonly at: string }>;
  /** Hash of the code that rewrites. */
  readonly rewriter: string;
  /** Hashes of files that were looked at already. */
  readonly hashes: Map<string, string>;
}

export function sha(...parts: readonly (string | Uint8Array)[]): string {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part).update("\0");
  return hash.digest("hex").slice(0, 32);
}

interface Record_ {
  readonly inputs: readonly (readonly [path: string, hash: string])[];
  readonly key: string;
}

/** @param index of the unit, for its sites */
export async function buildUnit(unit: Unit, index: number, context: UnitContext): Promise<BuiltUnit> {
  const { cache, toolchain, flags, rewriter } = context;
  const about = sha(unit.path, String(index), toolchain.versions, rewriter, ...flags);
  // A patched file has the path of the original: each keeps a record of its own.
  const patches = [...context.patched].map(([path, { hash }]) => `${path} ${hash}`);
  for (const name of [sha(about, ...patches), about]) {
    const record = join(cache, "records", `${name}.json`);
    if (!existsSync(record)) continue;
    const { inputs, key } = JSON.parse(readFileSync(record, "utf8")) as Record_;
    const isSame = inputs.every(([path, hash]) => hashOf(path, context) === hash);
    if (isSame && existsSync(objectOf(cache, key)))
      return { unit, object: objectOf(cache, key), facts: factsOf(cache, key), key };
  }
  return await compile(unit, index, sha(about, ...patches), context);
}

async function compile(unit: Unit, index: number, record: string, context: UnitContext): Promise<BuiltUnit> {
  const { cache, toolchain, flags, root, rewriter } = context;
  const part = join(cache, "objects", `part-${process.pid}-${index}`);
  for (const folder of ["objects", "records"]) mkdirSync(join(cache, folder), { recursive: true });
  const ll = `${part}.ll`;
  const overlay = context.patched.size === 0 ? [] : ["-ivfsoverlay", writeOverlay(part, context)];
  await tool(toolchain.commands.clang, [...flags, ...overlay, "-MD", "-MF", `${part}.d`, unit.path, "-o", ll], unit);
  const inputs = dependencies(readFileSync(`${part}.d`, "utf8")).map((path) => [path, hashOf(path, context)] as const);
  const { ir, sites, declared, defined, variables, metadata } = rewrite(
    readFileSync(ll, "utf8"),
    root,
    index * SITES_A_UNIT,
  );
  const globals = metadata.globals();
  const named = new Set([...STRUCTS, ...[...globals.values()].map(({ type }) => type)]);
  const structs = metadata.layouts((name) => named.has(name) || name.startsWith(EVENT_STRUCT));
  const facts: UnitFacts = {
    ...{ sites, defined, variables },
    declared: Object.fromEntries(declared),
    globals: Object.fromEntries(globals),
    structs: Object.fromEntries(structs),
  };
  writeFileSync(ll, ir);
  await tool(
    toolchain.commands.llc,
    ["-O2", "-mattr=+sign-ext,+mutable-globals", "-filetype=obj", ll, "-o", `${part}.o`],
    unit,
  );
  const key = sha(toolchain.versions, rewriter, ...flags.map((flag) => flag.replace(root, "")), ...inputs.flat());
  writeFileSync(`${part}.json`, JSON.stringify(facts));
  renameSync(`${part}.json`, join(cache, "objects", `${key}.json`));
  renameSync(`${part}.o`, objectOf(cache, key));
  writeFileSync(join(cache, "records", `${record}.json`), JSON.stringify({ inputs, key } satisfies Record_));
  await run("rm", ["-f", ll, `${part}.d`, `${part}.yaml`]);
  return { unit, object: objectOf(cache, key), facts, key };
}

/** Tells the front end to read patched files in the originals' place. */
function writeOverlay(part: string, { patched }: UnitContext): string {
  const roots = [...patched].map(([path, { at }]) => ({ name: path, type: "file", "external-contents": at }));
  writeFileSync(`${part}.yaml`, JSON.stringify({ version: 0, "use-external-names": false, roots }));
  return `${part}.yaml`;
}

async function tool(command: string, args: readonly string[], unit: Unit): Promise<void> {
  try {
    await run(command, args, { maxBuffer: 1 << 26 });
  } catch (error) {
    const { stderr } = error as { readonly stderr?: string };
    const lines = (stderr ?? String(error)).split("\n");
    const first = lines.find((line) => /\berror\b/.test(line)) ?? lines[0] ?? "";
    throw new UsageError(`${unit.kernelFile ?? unit.name}: ${command} cannot compile it: ${first.trim()}`);
  }
}

/** The files of a make rule. */
function dependencies(rule: string): string[] {
  const [, list = ""] = /^[^:]*:([\s\S]*)$/.exec(rule) ?? [];
  return [...new Set(list.replace(/\\\n/g, " ").trim().split(/\s+/))];
}

function hashOf(path: string, { hashes, patched }: UnitContext): string {
  const changed = patched.get(path);
  if (changed !== undefined) return changed.hash;
  const known = hashes.get(path);
  if (known !== undefined) return known;
  const hash = existsSync(path) ? sha(readFileSync(path)) : "";
  hashes.set(path, hash);
  return hash;
}

const objectOf = (cache: string, key: string): string => join(cache, "objects", `${key}.o`);
const factsOf = (cache: string, key: string): UnitFacts =>
  JSON.parse(readFileSync(join(cache, "objects", `${key}.json`), "utf8")) as UnitFacts;
