/**
 * From the front end's IR to one that runs under the checker.
 *
 * Linux is compiled for x86-64 with its own headers and flags, optimised, to LLVM IR in text form; here every access to memory in it becomes a
 * call, and what is x86's goes:
 *
 *     %7 = load volatile i64, i64* %6        ->   %7 = call i64 @rw_load_marked(i64 %6, i32 8, i32 SITE)
 *     %8 = load i64, i64* %6                 ->   %8 = call i64 @rw_load(...)
 *     store i64 %8, i64* %6                  ->   call void @rw_store(...)
 *     cmpxchg, atomicrmw, memcpy, memset     ->   calls
 *     call void @_raw_spin_lock(...)         ->   preceded by: store i32 SITE, i32* @rw_site
 *     inline assembly                        ->   nothing, when it is empty (a compiler barrier); else a call that complains
 *
 * SITE is an index into the table of source places. A call gives the value that was read, where an annotation in front of the load (what
 * thread sanitizers insert) could not: a task that is rebuilt reads from its log, not from memory as it is now (docs/decisions).
 *
 * Accesses whose address is visibly a local variable or a constant stay what they are; of the others the run-time finds out by address.
 * Written for LLVM 14's typed pointers and for the opaque ones of later versions.
 */
import { Metadata, type Place } from "./metadata.ts";

export interface Rewritten {
  readonly ir: string;
  /** By site index, less the first index given. */
  readonly sites: readonly (readonly Place[])[];
  /** Functions that are called and not defined here, with the kind of what they return. */
  readonly declared: ReadonlyMap<string, "void" | "i32" | "i64">;
  readonly defined: readonly string[];
  /** Variables that are used and not defined here. */
  readonly variables: readonly string[];
  readonly metadata: Metadata;
}

const TARGET = 'target datalayout = "e-m:e-p:64:64-i64:64-n32:64-S128"\ntarget triple = "wasm64-unknown-unknown"';
const TARGET_NEW =
  'target datalayout = "e-m:e-p:64:64-p10:8:8-p20:8:8-i64:64-i128:128-n32:64-S128-ni:1:10:20"\ntarget triple = "wasm64-unknown-unknown"';

const RUNTIME = (opaque: boolean): string => {
  const ptr = opaque ? "ptr" : "i8*";
  return `
@rw_site = external global i32
declare i64 @rw_load(i64, i32, i32)
declare i64 @rw_load_marked(i64, i32, i32)
declare void @rw_store(i64, i64, i32, i32)
declare void @rw_store_marked(i64, i64, i32, i32)
declare i64 @rw_rmw(i32, i64, i64, i32, i32)
declare i64 @rw_cmpxchg(i64, i64, i64, i32, i32)
declare void @rw_memcpy(${ptr}, ${ptr}, i64)
declare void @rw_memmove(${ptr}, ${ptr}, i64)
declare void @rw_memset(${ptr}, i8, i64)
declare void @rw_asm(i32)
declare i32 @rw_false()
`;
};

/** Variables of the run-time that only the running task sees. */
const OWN: ReadonlySet<string> = new Set([
  "rw_site",
  "rw_current",
  "rw_cpu",
  "rw_percpu_offset",
  "rw_tracing",
  "rw_vmemmap",
]);

/** What rw_rmw() is told, by LLVM's name. */
const RMW: Readonly<Record<string, number>> = { xchg: 0, add: 1, sub: 2, and: 3, or: 4, xor: 5 };

/** @param siteBase index of the first site */
export function rewrite(text: string, root: string, siteBase: number): Rewritten {
  return new Rewriter(text, root, siteBase).run();
}

class Rewriter {
  private readonly lines: readonly string[];
  private readonly metadata: Metadata;
  private readonly siteBase: number;
  private readonly sites: (readonly Place[])[] = [];
  private readonly siteOf = new Map<number, number>();
  private readonly declared = new Map<string, "void" | "i32" | "i64">();
  private readonly defined: string[] = [];
  private readonly variables: string[] = [];
  /** Global constants: never written, so never of interest. */
  private readonly constants = new Set<string>();
  /** Local variables of the function at hand, and addresses inside them. */
  private locals = new Set<string>();
  private readonly opaque: boolean;
  private temporaries = 0;

  constructor(text: string, root: string, siteBase: number) {
    this.lines = text.split("\n");
    this.metadata = new Metadata(text, root);
    this.siteBase = siteBase;
    this.opaque = / ptr [%@]/.test(text);
    for (const match of text.matchAll(/^@([\w.$]+) = .*\bconstant\b/gm)) this.constants.add(match[1] as string);
    for (const match of text.matchAll(/^declare .*?@([\w.$]+)\(/gm)) {
      const name = match[1] as string;
      if (!name.startsWith("llvm.")) this.declared.set(name, returnKind(match[0]));
    }
  }

  run(): Rewritten {
    const out: string[] = [];
    let inBody = false;
    for (let i = 0; i < this.lines.length; i++) {
      let line = this.lines[i] as string;
      if (!inBody) {
        const kept = this.topLevel(line);
        if (kept !== null) out.push(kept);
        if (line.startsWith("define ")) {
          inBody = true;
          this.locals = new Set();
        }
        continue;
      }
      if (line === "}") inBody = false;
      // A callbr goes on in the next line, a switch over several; the latter need no change.
      if (/^\s+(?:%\S+ = )?(?:tail )?callbr /.test(line)) line += (this.lines[++i] as string).trimEnd();
      this.instruction(line, out);
    }
    const { sites, declared, defined, variables, metadata } = this;
    return { ir: `${out.join("\n")}\n${RUNTIME(this.opaque)}`, sites, declared, defined, variables, metadata };
  }

  private topLevel(line: string): string | null {
    if (line.startsWith("target datalayout")) return this.opaque ? TARGET_NEW : TARGET;
    if (/^(?:target triple|module asm|!|source_filename|; ModuleID)/.test(line)) return null;
    if (/^@llvm\.(?:compiler\.)?used /.test(line)) return null;
    if (line.startsWith("attributes #")) return plainAttributes(line);
    const bare = line
      .replace(/,? section "(?!percpu)[^"]*"/g, "")
      .replace(/section "percpu[^"]*"/g, 'section "percpu"')
      .replace(/,? !\w[\w.]* !\d+/g, "")
      .replace(/ x86_\w+cc /g, " ")
      .replace(/ code_model "[^"]*"/g, "");
    if (line.startsWith("define ")) {
      this.defined.push(/@([\w.$]+)\(/.exec(line)?.[1] ?? "");
      return bare.replace(/ prefix .*(?= \{$)/, "");
    }
    const external = /^@([\w.$]+) = external /.exec(line);
    if (external !== null) this.variables.push(external[1] as string);
    // A declaration of metadata has none left to take.
    if (/^declare .*\bmetadata\b/.test(line)) return null;
    // x86 only; their calls go too.
    return /^declare .*@llvm\.x86\./.test(line) ? null : bare;
  }

  private instruction(line: string, out: string[]): void {
    const at = Number(/!dbg !(\d+)/.exec(line)?.[1] ?? -1);
    const site = (): number => this.siteIndex(at);
    const bare = line.replace(/(?:, |,? )!\w[\w.]* !\d+/g, "");
    const made =
      this.dropped(bare) ??
      this.assembly(bare, site) ??
      this.load(bare, site) ??
      this.store(bare, site) ??
      this.atomicRmw(bare, site) ??
      this.compareExchange(bare, site) ??
      this.memory(bare) ??
      this.call(bare, site);
    this.noteLocal(bare);
    out.push(...(made ?? [bare]));
  }

  // --- what goes -------------------------------------------------------------------------------------------------

  private dropped(line: string): string[] | null {
    if (/call void @llvm\.(?:dbg|lifetime|experimental\.noalias|assume|invariant)\b/.test(line)) return [];
    const special =
      /^\s+(?:(%\S+) = )?(?:tail |musttail )?call (.*?) ?@llvm\.(?:read_register|write_register|x86|returnaddress|frameaddress|prefetch)[.\w]*\(/.exec(
        line,
      );
    if (special === null) return null;
    return special[1] === undefined
      ? []
      : [zero(special[1], special[2]?.replace(/^(?:noundef |zeroext |signext )+/, "") ?? "i64")];
  }

  private assembly(line: string, site: () => number): string[] | null {
    const match =
      /^\s+(?:(%\S+) = )?(?:tail |musttail )?(call|callbr) (.*?) ?asm (?:sideeffect |alignstack |inteldialect |unwind )*"([^"]*)", "([^"]*)"\((.*)$/.exec(
        line,
      );
    if (match === null) return null;
    const [, result, kind, type = "void", template, , rest = ""] = match;
    const lines: string[] = [];
    const isBarrier = template === "" || template === "pause";
    if (!isBarrier) lines.push(`  call void @rw_asm(i32 ${site()})`);
    if (result !== undefined) {
      const operand = splitTop(rest.slice(0, closing(rest)))[0];
      // An empty template that returns something hides where its operand comes from.
      lines.push(isBarrier && operand !== undefined ? same(result, type, operand) : zero(result, type));
    }
    if (kind === "callbr") {
      const [, normal = "", others = ""] = /to label (%\S+) \[(.*)\]/.exec(rest) ?? [];
      const which = this.temporary();
      const cases = others
        .split(",")
        .map((label, i) => `i32 ${i + 1}, ${label.trim()}`)
        .join(" ");
      lines.push(`  ${which} = call i32 @rw_false()`, `  switch i32 ${which}, label ${normal} [${cases}]`);
    }
    return lines;
  }

  // --- accesses ----------------------------------------------------------------------------------------------------

  private load(line: string, site: () => number): string[] | null {
    const match = /^\s+(%\S+) = load (atomic )?(volatile )?(.*), align \d+$/.exec(line);
    if (match === null) return null;
    const [, result, , marked, rest] = match as unknown as [string, string, string?, string?, string?];
    const [type, pointer] = splitTop(rest ?? "") as [string, string];
    const bytes = sizeOf(type);
    if (bytes === null || this.isPrivate(pointer)) return null;
    const [made, addr] = this.address(pointer);
    const name = marked === undefined ? "rw_load" : "rw_load_marked";
    const value = this.temporary();
    return [
      ...made,
      `  ${value} = call i64 @${name}(i64 ${addr}, i32 ${bytes}, i32 ${site()})`,
      fromWord(result, type, value),
    ];
  }

  private store(line: string, site: () => number): string[] | null {
    const match = /^\s+store (atomic )?(volatile )?(.*), align \d+$/.exec(line);
    if (match === null) return null;
    const [value, pointer] = splitTop(match[3] as string) as [string, string];
    const [type, operand] = typed(value);
    const bytes = sizeOf(type);
    if (bytes === null || this.isPrivate(pointer)) return null;
    const [made, addr] = this.address(pointer);
    const [more, word] = this.toWord(type, operand);
    const name = match[2] === undefined ? "rw_store" : "rw_store_marked";
    return [...made, ...more, `  call void @${name}(i64 ${addr}, i64 ${word}, i32 ${bytes}, i32 ${site()})`];
  }

  private atomicRmw(line: string, site: () => number): string[] | null {
    const match =
      /^\s+(%\S+) = atomicrmw (?:volatile )?(\w+) (.*?) (?:monotonic|acquire|release|acq_rel|seq_cst)(?:, align \d+)?$/.exec(
        line,
      );
    if (match === null) return null;
    const [, result, operation, rest] = match as unknown as [string, string, string, string];
    const [pointer, value] = splitTop(rest) as [string, string];
    const [type, operand] = typed(value);
    const kind = RMW[operation];
    const bytes = sizeOf(type);
    if (kind === undefined || bytes === null) throw new Error(`atomicrmw ${operation} ${type} has no counterpart`);
    const [made, addr] = this.address(pointer);
    const [more, word] = this.toWord(type, operand);
    const old = this.temporary();
    const call = `  ${old} = call i64 @rw_rmw(i32 ${kind}, i64 ${addr}, i64 ${word}, i32 ${bytes}, i32 ${site()})`;
    return [...made, ...more, call, fromWord(result, type, old)];
  }

  private compareExchange(line: string, site: () => number): string[] | null {
    const match =
      /^\s+(%\S+) = cmpxchg (?:weak )?(?:volatile )?(.*?) (?:monotonic|acquire|release|acq_rel|seq_cst) \w+(?:, align \d+)?$/.exec(
        line,
      );
    if (match === null) return null;
    const [, result, rest] = match as unknown as [string, string, string];
    const [pointer, expected, replacement] = splitTop(rest) as [string, string, string];
    const [type, expectedOperand] = typed(expected);
    const [, newOperand] = typed(replacement);
    const bytes = sizeOf(type);
    if (bytes === null) throw new Error(`cmpxchg of ${type} has no counterpart`);
    const [made, addr] = this.address(pointer);
    const [moreOld, oldWord] = this.toWord(type, expectedOperand);
    const [moreNew, newWord] = this.toWord(type, newOperand);
    const [was, found, isSame, first] = [this.temporary(), this.temporary(), this.temporary(), this.temporary()];
    return [
      ...made,
      ...moreOld,
      ...moreNew,
      `  ${was} = call i64 @rw_cmpxchg(i64 ${addr}, i64 ${oldWord}, i64 ${newWord}, i32 ${bytes}, i32 ${site()})`,
      fromWord(found, type, was),
      `  ${isSame} = icmp eq i64 ${was}, ${oldWord}`,
      `  ${first} = insertvalue { ${type}, i1 } undef, ${type} ${found}, 0`,
      `  ${result} = insertvalue { ${type}, i1 } ${first}, i1 ${isSame}, 1`,
    ];
  }

  private memory(line: string): string[] | null {
    const match =
      /^(\s+)(?:(?:tail|musttail) )?call void @llvm\.(memcpy|memmove|memset)\.[\w.]*\((.*), i1 (?:immarg )?(?:false|true)\)/.exec(
        line,
      );
    if (match === null) return null;
    const [, , name, args] = match as unknown as [string, string, string, string];
    const parts = splitTop(args);
    const [type, size] = typed(parts[2] as string);
    const lines: string[] = [];
    let last = parts[2] as string;
    if (type !== "i64") {
      const wide = this.temporary();
      lines.push(`  ${wide} = zext ${type} ${size} to i64`);
      last = `i64 ${wide}`;
    }
    return [...lines, `  call void @rw_${name}(${parts[0]}, ${parts[1]}, ${last})`];
  }

  // --- calls out ---------------------------------------------------------------------------------------------------

  private call(line: string, site: () => number): string[] | null {
    const match = /^\s+(?:%\S+ = )?(?:tail |notail )?call [^@]*@([\w.$]+)\(/.exec(line);
    if (match === null || !this.declared.has(match[1] as string)) return null;
    const slot = this.opaque ? "ptr" : "i32*";
    return [`  store i32 ${site()}, ${slot} @rw_site`, line];
  }

  // --- operands ----------------------------------------------------------------------------------------------------

  private siteIndex(location: number): number {
    if (location < 0) return 0;
    const known = this.siteOf.get(location);
    if (known !== undefined) return known;
    const site = this.siteBase + this.sites.push(this.metadata.placesOf(location)) - 1;
    this.siteOf.set(location, site);
    return site;
  }

  private temporary(): string {
    return `%rw.${this.temporaries++}`;
  }

  /** An address as a number. */
  private address(pointer: string): [string[], string] {
    const [type, operand] = typed(pointer);
    const name = this.temporary();
    return [[`  ${name} = ptrtoint ${type} ${operand} to i64`], name];
  }

  /** A value as 64 bits. */
  private toWord(type: string, operand: string): [string[], string] {
    if (type === "i64") return [[], operand];
    const name = this.temporary();
    if (isPointer(type)) return [[`  ${name} = ptrtoint ${type} ${operand} to i64`], name];
    return [[`  ${name} = zext ${type} ${operand} to i64`], name];
  }

  /** True when the pointer is visibly to a local variable, a constant or the run-time's own. */
  private isPrivate(pointer: string): boolean {
    const [, operand] = typed(pointer);
    if (operand.startsWith("%")) return this.locals.has(operand);
    const name = /@([\w.$]+)/.exec(operand)?.[1];
    return name !== undefined && (this.constants.has(name) || OWN.has(name));
  }

  private noteLocal(line: string): void {
    const made = /^\s+(%\S+) = alloca /.exec(line);
    if (made !== null) {
      this.locals.add(made[1] as string);
      return;
    }
    const derived = /^\s+(%\S+) = (?:bitcast|getelementptr)(?: inbounds)? .*?(?:\*|ptr) (%[\w.$-]+)/.exec(line);
    if (derived !== null && this.locals.has(derived[2] as string)) this.locals.add(derived[1] as string);
  }
}

// --- text ------------------------------------------------------------------------------------------------------------

/** Splits at commas that are in no brackets and no quotes. */
function splitTop(text: string): string[] {
  const parts: string[] = [];
  let depth = 0;
  let start = 0;
  for (let i = 0; i < text.length; i++) {
    const c = text[i] as string;
    if (c === '"') i = text.indexOf('"', i + 1);
    else if ("([{<".includes(c)) depth++;
    else if (")]}>".includes(c)) depth--;
    else if (c === "," && depth === 0) {
      parts.push(text.slice(start, i).trim());
      start = i + 1;
    }
  }
  parts.push(text.slice(start).trim());
  return parts;
}

/** Index of the bracket that closes what was opened before `text`. */
function closing(text: string): number {
  let depth = 1;
  for (let i = 0; i < text.length; i++) {
    const c = text[i] as string;
    if ("([{<".includes(c)) depth++;
    else if (")]}>".includes(c) && --depth === 0) return i;
  }
  return text.length;
}

const ATTRIBUTES =
  /^(?:noundef|nonnull|nocapture|readonly|writeonly|readnone|zeroext|signext|noalias|immarg|inreg|returned|align \d+|dereferenceable(?:_or_null)?\(\d+\)|elementtype\([^)]*\)) /;

/** `i64 noundef %7` as its type and its operand. */
function typed(text: string): [string, string] {
  let depth = 0;
  let at = 0;
  for (; at < text.length; at++) {
    const c = text[at] as string;
    if ("([{<".includes(c)) depth++;
    else if (")]}>".includes(c)) depth--;
    // A function type has a blank before its parameters.
    else if (c === " " && depth === 0 && text[at + 1] !== "(" && text[at + 1] !== "*") break;
    else if (c === " " && depth === 0 && /^ \([^)]*\)\*/.test(text.slice(at)) === false && text[at + 1] === "(") break;
  }
  let operand = text.slice(at + 1);
  while (ATTRIBUTES.test(operand)) operand = operand.replace(ATTRIBUTES, "");
  return [text.slice(0, at), operand];
}

function isPointer(type: string): boolean {
  return type.endsWith("*") || type === "ptr";
}

/** Bytes of a scalar type; null for what is no single word. */
function sizeOf(type: string): number | null {
  if (isPointer(type)) return 8;
  switch (type) {
    case "i1":
    case "i8":
      return 1;
    case "i16":
      return 2;
    case "i32":
      return 4;
    case "i64":
      return 8;
    default:
      return null;
  }
}

function fromWord(result: string, type: string, word: string): string {
  if (type === "i64") return `  ${result} = add i64 ${word}, 0`;
  if (isPointer(type)) return `  ${result} = inttoptr i64 ${word} to ${type}`;
  return `  ${result} = trunc i64 ${word} to ${type}`;
}

function zero(result: string, type: string): string {
  return `  ${result} = select i1 true, ${type} zeroinitializer, ${type} zeroinitializer`;
}

function same(result: string, type: string, argument: string): string {
  const [given, operand] = typed(argument);
  if (given !== type) return zero(result, type);
  return isPointer(type)
    ? `  ${result} = bitcast ${type} ${operand} to ${type}`
    : `  ${result} = add ${type} ${operand}, 0`;
}

/** Without what only says something about x86. A group must not be empty. */
function plainAttributes(line: string): string {
  return line
    .replace(/ "[^"]*"(?:="[^"]*")?/g, "")
    .replace(/ (?:fn_ret_thunk_extern|nocf_check|noredzone)\b/g, "")
    .replace(/\{ *\}/, "{ nounwind }");
}

function returnKind(declaration: string): "void" | "i32" | "i64" {
  const before = declaration.slice(0, declaration.indexOf("@")).trimEnd();
  if (isPointer(before) || before.endsWith("i64")) return "i64";
  return before.endsWith("void") ? "void" : "i32";
}
