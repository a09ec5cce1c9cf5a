/**
 * Finding a study: one that comes with racewalk, by its id, or a user's own file, by its path.
 *
 * A study file is TypeScript that Node runs as it is (types are stripped). It may lie anywhere on disk and imports "racewalk" or
 * "racewalk/engine": these two always mean the racewalk that runs, never another copy that happens to be installed near the file. Two copies
 * of the engine in one thread would not know each other's violations and worlds.
 */
import { readFileSync, statSync } from "node:fs";
import { type ResolveHookSync, registerHooks } from "node:module";
import { resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { z } from "zod";
import { EngineBug, UsageError } from "../engine/index.ts";
import { builtInStudy, isBuiltIn } from "./registry.ts";
import { type Study, study } from "./study.ts";

/** Where a study comes from, in a form that a worker can be told. */
export interface StudySource {
  /** As the user wrote it: an id or a path. */
  readonly name: string;
  /** Null for a study that comes with racewalk. */
  readonly fileUrl: string | null;
}

export interface LoadedStudy {
  readonly source: StudySource;
  readonly study: Study;
}

/** @throws UsageError, one line `NAME: what is wrong; how to mend it` */
export async function loadStudy(name: string): Promise<LoadedStudy> {
  const isFile = name.endsWith(".ts") && !isBuiltIn(name);
  const source = { name, fileUrl: isFile ? pathToFileURL(readableFile(name)).href : null };
  return { source, study: await importStudy(source) };
}

/** Imports a study into this thread. @throws UsageError as {@link loadStudy} */
export async function importStudy(source: StudySource): Promise<Study> {
  const { name, fileUrl } = source;
  if (fileUrl === null) return builtInStudy(name);
  const hooks = registerHooks({ resolve: resolveHook });
  let module: Readonly<Record<string, unknown>>;
  try {
    module = (await import(fileUrl)) as Readonly<Record<string, unknown>>;
  } catch (error) {
    throw faultInStudy(error, source, "");
  } finally {
    hooks.deregister();
  }
  return checkShape(name, module["default"]);
}

/** @returns the absolute path. @throws UsageError when it cannot be read */
function readableFile(name: string): string {
  const path = resolve(name);
  try {
    if (statSync(path).isFile()) {
      readFileSync(path);
      return path;
    }
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? "";
    if (code === "ENOENT" || code === "ENOTDIR") throw new UsageError(`${name}: no such file; check the path`);
    throw new UsageError(`${name}: cannot be read (${code}); check its permissions`);
  }
  throw new UsageError(`${name}: is not a file; name the study file itself`);
}

// --- resolving -------------------------------------------------------------------------------------------------------

/** This file's own ending: .ts when the sources run, .js when they were built. */
const ENDING = import.meta.url.slice(import.meta.url.lastIndexOf("."));
const OWN_FOLDER = new URL("..", import.meta.url).href;
const OWN: Readonly<Record<string, string>> = {
  racewalk: `${OWN_FOLDER}index${ENDING}`,
  "racewalk/engine": `${OWN_FOLDER}engine/index${ENDING}`,
};

const resolveHook: ResolveHookSync = (specifier, context, nextResolve) => {
  const own = OWN[specifier];
  if (own !== undefined) return nextResolve(own, context);
  const resolved = nextResolve(specifier, context);
  // Studies are modules wherever they lie: no package.json has to say so.
  const isStudySource = resolved.url.endsWith(".ts") && !resolved.url.startsWith(OWN_FOLDER);
  return isStudySource ? { ...resolved, format: "module-typescript" } : resolved;
};

// --- what a study must look like -------------------------------------------------------------------------------------

const isFunction = z.custom<() => never>((value) => typeof value === "function", "must be a function");

const SHAPE = z.object({
  id: z.string(),
  title: z.string(),
  source: z.string(),
  variants: z.record(z.string(), z.string()),
  cells: z.array(
    z.object({
      variant: z.string(),
      scenario: z.string().min(1),
      property: z.string(),
      model: z.enum(["sc", "tso"]),
      strategy: z.enum(["dpor", "random", "pct", "graph"]),
      expected: z.enum(["holds", "fails"]),
      because: z.string(),
      program: isFunction,
    }),
  ),
});

function checkShape(name: string, value: unknown): Study {
  const mend = "end the file with `export default study({ ... })`";
  if (value === undefined) throw new UsageError(`${name}: has no default export; ${mend}`);
  const parsed = SHAPE.safeParse(value);
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    const isObject = typeof value === "object" && value !== null;
    const what = isObject && issue !== undefined ? ` (${[issue.path.join("."), issue.message].join(": ")})` : "";
    throw new UsageError(`${name}: its default export is not a study${what}; ${mend}`);
  }
  try {
    return study(value as Study);
  } catch (error) {
    throw error instanceof UsageError ? new UsageError(`${name}: ${error.message}`) : error;
  }
}

// --- blame -----------------------------------------------------------------------------------------------------------

/**
 * What to tell the user of an error that a study's code threw, while it was loaded or in a cell. A broken assumption of racewalk stays what it
 * is; so does any error of a study that comes with racewalk, but for one that says how to mend the usage.
 * @param where the cell, empty while loading
 */
export function faultInStudy(error: unknown, source: StudySource, where: string): Error {
  const at = where === "" ? "" : `${where}: `;
  if (error instanceof UsageError) return new UsageError(`${source.name}: ${at}${error.message}`);
  if (error instanceof EngineBug) return error;
  if (source.fileUrl === null) return error instanceof Error ? error : new EngineBug(`thrown: ${String(error)}`);
  const line = lineInFile(error, source.fileUrl);
  const what = error instanceof Error ? `${error.name}: ${error.message}` : `thrown: ${String(error)}`;
  return new UsageError(`${source.name}${line}: ${at}${what}; mend the study`);
}

/** `:LINE` of the innermost place in the study file, as far as the error tells. */
function lineInFile(error: unknown, fileUrl: string): string {
  const stack = error instanceof Error ? (error.stack ?? "") : "";
  for (const text of [fileUrl, fileURLToPath(fileUrl)]) {
    const at = stack.indexOf(`${text}:`);
    const line = at < 0 ? null : /^\d+/.exec(stack.slice(at + text.length + 1));
    if (line !== null) return `:${line[0]}`;
  }
  return "";
}
