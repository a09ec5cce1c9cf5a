/**
 * A compiled kernel: a WebAssembly module, and what is known of it.
 *
 * Lies in a folder of the cache as kernel.wasm and kernel.json; what is in the folder follows from what went into it (build.ts).
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { EngineBug } from "../engine/index.ts";

const KIND = z.enum(["void", "i32", "i64"]);
const LAYOUT = z.object({ bytes: z.number(), fields: z.array(z.tuple([z.number(), z.number(), z.string()])) });

const DESCRIPTION = z.object({
  format: z.literal(1),
  kernel: z.string(),
  files: z.array(z.string()),
  /** Functions that the module calls out for, with what they return. */
  imports: z.record(z.string(), KIND),
  /** Constants: [first address, bytes]. */
  constants: z.tuple([z.number(), z.number()]),
  dataStart: z.number(),
  dataEnd: z.number(),
  /** Variables by address: [address, bytes, name, structure]. */
  variables: z.array(z.tuple([z.number(), z.number(), z.string(), z.string()])),
  /** Structures: size, and fields as [offset, bytes, name]. */
  structs: z.record(z.string(), LAYOUT),
  /** Names that places refer to. */
  functions: z.array(z.string()),
  sources: z.array(z.string()),
  /** Places by unit and site: function, file and line of the innermost call, then of those around it. */
  sites: z.array(z.array(z.array(z.number()))),
});

export type ImageDescription = z.infer<typeof DESCRIPTION>;
export type ImportKind = z.infer<typeof KIND>;

export interface Image {
  readonly folder: string;
  readonly description: ImageDescription;
  readonly module: WebAssembly.Module;
}

export const WASM_FILE = "kernel.wasm";
export const DESCRIPTION_FILE = "kernel.json";

export function loadImage(folder: string): Image {
  const parsed = DESCRIPTION.safeParse(JSON.parse(readFileSync(join(folder, DESCRIPTION_FILE), "utf8")));
  if (!parsed.success) throw new EngineBug(`${folder} holds no image of this version of racewalk; remove the folder`);
  return { folder, description: parsed.data, module: new WebAssembly.Module(readFileSync(join(folder, WASM_FILE))) };
}

/** The places of a site, innermost first. */
export function placesOfSite(
  description: ImageDescription,
  site: number,
): { function: string; file: string; line: number }[] {
  const numbers = description.sites[site >>> 16]?.[site & 0xffff] ?? [];
  const places: { function: string; file: string; line: number }[] = [];
  for (let i = 0; i + 2 < numbers.length; i += 3) {
    places.push({
      function: description.functions[numbers[i] as number] ?? "?",
      file: description.sources[numbers[i + 1] as number] ?? "?",
      line: numbers[i + 2] as number,
    });
  }
  return places;
}

/** What a report calls the place at an offset inside a structure: the innermost field there. */
export function fieldName(description: ImageDescription, structure: string, offset: number): string {
  const layout = description.structs[structure];
  if (layout === undefined || layout.bytes === 0) return offset === 0 ? "" : `+0x${offset.toString(16)}`;
  let best: readonly [number, number, string] | null = null;
  for (const field of layout.fields) {
    const [start, bytes] = field;
    if (offset < start || offset >= start + Math.max(1, bytes)) continue;
    if (best === null || bytes <= best[1]) best = field;
  }
  if (best === null) return offset === 0 ? "" : `+0x${offset.toString(16)}`;
  return best[2];
}
