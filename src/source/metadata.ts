/**
 * What LLVM IR in text form says about the source: places of instructions, layouts of structures, global variables.
 *
 * Debug information is a graph of numbered nodes, one a line:
 *
 *     !8106 = !DILocation(line: 176, column: 2, scope: !8101, inlinedAt: !8107)
 *     !255 = distinct !DICompositeType(tag: DW_TAG_structure_type, name: "gfn_to_pfn_cache", size: 960, elements: !256)
 *
 * Only the fields that are asked for are looked at, by text: whatever else a version of LLVM writes there does not matter.
 */

/** A place in the kernel's source, and those of the calls that were inlined around it, innermost first. */
export type Place = readonly [functionName: string, file: string, line: number];

/** A structure's field, or that of a structure inside it: offset and size in bytes, and the type of what it points to. */
export interface FieldLayout {
  readonly offset: number;
  readonly bytes: number;
  readonly name: string;
}

export interface StructLayout {
  readonly bytes: number;
  readonly fields: readonly FieldLayout[];
}

const DEPTH_MAX = 3;

export class Metadata {
  private readonly nodes = new Map<number, string>();
  private readonly strip: string;
  private readonly places = new Map<number, readonly Place[]>();

  /** @param root folder of the kernel source: files are named relative to it */
  constructor(text: string, root: string) {
    this.strip = root.endsWith("/") ? root : `${root}/`;
    for (const match of text.matchAll(/^!(\d+) = (?:distinct )?(!.*)$/gm)) {
      this.nodes.set(Number(match[1]), match[2] as string);
    }
  }

  /** The place of a DILocation, with the calls around it. */
  placesOf(location: number): readonly Place[] {
    const known = this.places.get(location);
    if (known !== undefined) return known;
    const node = this.nodes.get(location) ?? "";
    const scope = reference(node, "scope");
    const inlinedAt = reference(node, "inlinedAt");
    const subprogram = this.subprogramOf(scope);
    const line = Number(/\bline: (\d+)/.exec(node)?.[1] ?? 0);
    const own: Place = [text(subprogram, "name"), this.fileOf(reference(subprogram, "file")), line];
    const places = [own, ...(inlinedAt === null ? [] : this.placesOf(inlinedAt))];
    this.places.set(location, places);
    return places;
  }

  /** Layouts of the structures of these names, with the fields of structures inside them. */
  layouts(isWanted: (name: string) => boolean): Map<string, StructLayout> {
    const found = new Map<string, StructLayout>();
    for (const node of this.nodes.values()) {
      if (!node.startsWith("!DICompositeType(tag: DW_TAG_structure_type")) continue;
      const name = text(node, "name");
      if (name === "" || !isWanted(name) || reference(node, "elements") === null) continue;
      found.set(name, { bytes: bits(node, "size") / 8, fields: this.fieldsOf(node, "", 0, 0) });
    }
    return found;
  }

  /** The structure that each global variable is, by the variable's name in the object file; "" for one that is none. */
  globals(): Map<string, { readonly bytes: number; readonly type: string }> {
    const found = new Map<string, { bytes: number; type: string }>();
    for (const node of this.nodes.values()) {
      if (!node.startsWith("!DIGlobalVariable(")) continue;
      const declared = this.plainType(reference(node, "type"));
      const isArray = declared.includes("tag: DW_TAG_array_type");
      const type = isArray ? this.plainType(reference(declared, "baseType")) : declared;
      const name = text(node, "linkageName") || text(node, "name");
      found.set(name, { bytes: bits(type, "size") / 8, type: text(type, "name") });
    }
    return found;
  }

  private fieldsOf(structure: string, prefix: string, base: number, depth: number): FieldLayout[] {
    const fields: FieldLayout[] = [];
    for (const member of this.membersOf(structure)) {
      const offset = base + bits(member, "offset") / 8;
      const type = this.plainType(reference(member, "baseType"));
      const name = text(member, "name");
      const isInner = type.startsWith("!DICompositeType") && !type.includes("DW_TAG_array_type");
      const path = name === "" ? prefix : prefix === "" ? name : `${prefix}.${name}`;
      if (isInner && depth < DEPTH_MAX)
        fields.push(...this.fieldsOf(type, path, offset, name === "" ? depth : depth + 1));
      if (name !== "") fields.push({ offset, bytes: bits(member, "size") / 8, name: path });
    }
    return fields;
  }

  private membersOf(structure: string): string[] {
    const list = this.nodes.get(reference(structure, "elements") ?? -1) ?? "";
    return [...list.matchAll(/!(\d+)/g)]
      .map((match) => this.nodes.get(Number(match[1])) ?? "")
      .filter((node) => node.includes("DW_TAG_member"));
  }

  /** Past typedefs, const and volatile. */
  private plainType(at: number | null): string {
    let node = at === null ? "" : (this.nodes.get(at) ?? "");
    while (/^!DIDerivedType\(tag: DW_TAG_(?:typedef|const_type|volatile_type)/.test(node)) {
      const base = reference(node, "baseType");
      node = base === null ? "" : (this.nodes.get(base) ?? "");
    }
    return node;
  }

  private subprogramOf(scope: number | null): string {
    let node = scope === null ? "" : (this.nodes.get(scope) ?? "");
    while (node !== "" && !node.startsWith("!DISubprogram")) {
      const outer = reference(node, "scope");
      node = outer === null ? "" : (this.nodes.get(outer) ?? "");
    }
    return node;
  }

  private fileOf(at: number | null): string {
    const node = at === null ? "" : (this.nodes.get(at) ?? "");
    const name = text(node, "filename");
    const full = name.startsWith("/") ? name : `${text(node, "directory")}/${name}`;
    return full.startsWith(this.strip) ? full.slice(this.strip.length) : full;
  }
}

function reference(node: string, field: string): number | null {
  const match = new RegExp(`\\b${field}: !(\\d+)`).exec(node);
  return match === null ? null : Number(match[1]);
}

function text(node: string, field: string): string {
  return new RegExp(`\\b${field}: "([^"]*)"`).exec(node)?.[1] ?? "";
}

function bits(node: string, field: string): number {
  return Number(new RegExp(`\\b${field}: (\\d+)`).exec(node)?.[1] ?? 0);
}
