/** Which modules are changed for straight lines, and how: for who loads them (hooks.ts) and for who writes them (build.ts). */
import { readdirSync, readFileSync } from "node:fs";
import { stripTypeScriptTypes } from "node:module";
import { join } from "node:path";
import { fieldNames, straightened, withConstants, withoutCells, withoutEmptyFields } from "./source.ts";

/** Where code is written as steps of threads. */
const MODELLED = [
  "src/machine/",
  "src/kernel/",
  "src/kvm/",
  "src/conform/",
  "bench/speed/kvm-scene.ts",
  "bench/speed/shadow-scene.ts",
];
const HERE = "bench/speed/straight/";
/** Modules of the engine that have a counterpart here. */
const REPLACED = ["ops", "sequential", "view"].map((name) => ({
  of: `src/engine/${name}.ts`,
  by: `${HERE}${name}.ts`,
}));

export class StraightForm {
  private readonly fields: ReadonlySet<string>;

  /** @param root of the tree that is to run */
  constructor(root: string) {
    const sources = ["machine", "kernel", "kvm"].flatMap((floor) => modulesIn(root, `src/${floor}`));
    this.fields = fieldNames(sources.map((path) => readFileSync(join(root, path), "utf8")));
  }

  /** The module that `importer` gets when it asks for this one. Both are paths in the tree. */
  resolve(path: string, importer: string): string {
    if (importer.startsWith(HERE)) return path;
    return REPLACED.find(({ of }) => of === path)?.by ?? path;
  }

  /** The JavaScript of a module; null for one that stays as it is. */
  javascript(path: string, typed: string): string | null {
    const isModelled = MODELLED.some((place) => path.startsWith(place));
    if (!isModelled && !path.startsWith("src/engine/") && !path.startsWith(HERE)) return null;
    const straight = isModelled ? withoutCells(straightened(typed), this.fields) : typed;
    return withConstants(withoutEmptyFields(stripTypeScriptTypes(straight)));
  }
}

/** Paths, in the tree, of the modules in a folder. */
export function modulesIn(root: string, folder: string): string[] {
  return readdirSync(join(root, folder), { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".ts") && !file.endsWith(".d.ts"))
    .map((file) => `${folder}/${file}`);
}
