/**
 * A tiny language of concurrent programs, for tests of the engine: small enough to be drawn at random and interpreted twice, and with a
 * text form that a failing test can print and a person can run again.
 *
 *     x=1; r0=y || r1=await x!=0; if r1==1 { y=2 } else { mf }      two tasks
 *     spawn c0; join c0 || x=2 || c0: x=1; r0=x                     a body that tasks may spawn
 *
 *     w x y z      ordinary locations; x:=1 stores at once, past the store buffer
 *     u v          the two halves of one 8-byte granule
 *     h            that granule as a whole
 *     k l          locks: lock l, unlock l
 *     m            a read/write lock: rdlock m, rdunlock m, wrlock m, wrunlock m
 *     o p          objects that can be retired and revived
 *     *x           x without a mark: a plain access, which is no step of its own
 *     r0 .. r3     registers, private to a task, zero at first; they are what a task returns
 */

/** A number or a register. */
export type Operand = number | string;

export type Statement =
  | { readonly kind: "load"; readonly reg: string; readonly cell: string }
  | { readonly kind: "store" | "storeNow"; readonly cell: string; readonly value: Operand }
  | {
      readonly kind: "xadd" | "xchg" | "or" | "and";
      readonly reg: string;
      readonly cell: string;
      readonly value: Operand;
    }
  | {
      readonly kind: "cas";
      readonly reg: string;
      readonly cell: string;
      readonly expected: Operand;
      readonly value: Operand;
    }
  | { readonly kind: "peek"; readonly reg: string; readonly cell: string }
  | { readonly kind: "poke"; readonly cell: string; readonly value: Operand }
  | { readonly kind: "fence"; readonly of: number | null }
  | {
      readonly kind: "await";
      readonly reg: string;
      readonly cell: string;
      readonly test: Test;
      readonly value: number;
    }
  | { readonly kind: "choose"; readonly reg: string; readonly n: number }
  | { readonly kind: LockVerb; readonly cell: string }
  | { readonly kind: "retire" | "revive"; readonly cell: string }
  | { readonly kind: "spawn" | "join"; readonly child: string }
  | {
      readonly kind: "if";
      readonly reg: string;
      readonly value: number;
      readonly yes: readonly Statement[];
      readonly no: readonly Statement[];
    };

export type Test = "==" | "!=" | ">=";
export type LockVerb = (typeof LOCK_VERBS)[number];
const LOCK_VERBS = ["lock", "unlock", "rdlock", "rdunlock", "wrlock", "wrunlock"] as const;

export interface Tiny {
  readonly tasks: readonly (readonly Statement[])[];
  /** Bodies that tasks may spawn, by name. */
  readonly children: Readonly<Record<string, readonly Statement[]>>;
}

export const REGISTERS = ["r0", "r1", "r2", "r3"] as const;

/** What holds of a value that an await lets through. */
export function passes(test: Test, value: number, against: number): boolean {
  return test === "==" ? value === against : test === "!=" ? value !== against : value >= against;
}

// --- text ----------------------------------------------------------------------------------------------------------

export function showTiny(tiny: Tiny): string {
  const children = Object.entries(tiny.children).map(([name, body]) => `${name}: ${showBody(body)}`);
  return [...tiny.tasks.map(showBody), ...children].join(" || ");
}

function showBody(body: readonly Statement[]): string {
  return body.map(showStatement).join("; ");
}

function showStatement(s: Statement): string {
  switch (s.kind) {
    case "load":
      return `${s.reg}=${s.cell}`;
    case "store":
      return `${s.cell}=${s.value}`;
    case "storeNow":
      return `${s.cell}:=${s.value}`;
    case "peek":
      return `${s.reg}=*${s.cell}`;
    case "poke":
      return `*${s.cell}=${s.value}`;
    case "cas":
      return `${s.reg}=cas(${s.cell},${s.expected},${s.value})`;
    case "fence":
      return s.of === null ? "mf" : `mf(${s.of})`;
    case "await":
      return `${s.reg}=await ${s.cell}${s.test}${s.value}`;
    case "choose":
      return `${s.reg}=choose(${s.n})`;
    case "retire":
    case "revive":
      return `${s.kind} ${s.cell}`;
    case "spawn":
    case "join":
      return `${s.kind} ${s.child}`;
    case "if":
      return `if ${s.reg}==${s.value} { ${showBody(s.yes)} } else { ${showBody(s.no)} }`;
    case "xadd":
    case "xchg":
    case "or":
    case "and":
      return `${s.reg}=${s.kind}(${s.cell},${s.value})`;
    default:
      return `${s.kind} ${s.cell}`;
  }
}

/** Reads what {@link showTiny} writes. */
export function parseTiny(text: string): Tiny {
  const reader = new Reader(text);
  const tasks: Statement[][] = [];
  const children: Record<string, Statement[]> = {};
  do {
    const name = reader.take(/(c\d):/);
    const body = reader.body(/\|\||$/);
    if (name === null) tasks.push(body);
    else children[name[1] as string] = body;
  } while (reader.take(/\|\|/) !== null);
  reader.end();
  return { tasks, children };
}

const CELL = "[u-zhklmop]";
const REG = "r[0-3]";
const OPERAND = `(?:${REG}|\\d+)`;

class Reader {
  private at = 0;
  private readonly text: string;

  constructor(text: string) {
    this.text = text;
  }

  /** Skips blanks and takes what matches next; null when it does not. */
  take(pattern: RegExp): RegExpExecArray | null {
    const sticky = new RegExp(`\\s*(?:${pattern.source})`, "y");
    sticky.lastIndex = this.at;
    const match = sticky.exec(this.text);
    if (match !== null) this.at = sticky.lastIndex;
    return match;
  }

  private sees(pattern: RegExp): boolean {
    const before = this.at;
    const match = this.take(pattern);
    this.at = before;
    return match !== null;
  }

  end(): void {
    if (this.take(/$/) === null) throw new Error(`tiny program: cannot read it from "${this.text.slice(this.at)}" on`);
  }

  /** Statements up to, not including, what matches `close`. */
  body(close: RegExp): Statement[] {
    const body: Statement[] = [];
    while (!this.sees(close)) {
      body.push(this.statement());
      if (this.take(/;/) === null) break;
    }
    return body;
  }

  private statement(): Statement {
    const branch = this.take(new RegExp(`if (${REG})==(\\d+) \\{`));
    if (branch !== null) {
      const yes = this.body(/\}/);
      this.take(/\} else \{/);
      const otherwise = this.body(/\}/);
      this.take(/\}/);
      return { kind: "if", reg: branch[1] as string, value: Number(branch[2]), yes, no: otherwise };
    }
    for (const [pattern, build] of FORMS) {
      const match = this.take(pattern);
      if (match !== null) return build(match.slice(1));
    }
    throw new Error(`tiny program: cannot read it from "${this.text.slice(this.at)}" on`);
  }
}

type Parts = readonly (string | undefined)[];
const operand = (text: string | undefined): Operand => (text?.startsWith("r") ? text : Number(text));

const FORMS: readonly (readonly [RegExp, (parts: Parts) => Statement])[] = [
  [/mf\((\d+)\)/, ([of]) => ({ kind: "fence", of: Number(of) })],
  [/mf/, () => ({ kind: "fence", of: null })],
  [/(spawn|join) (c\d)/, ([kind, child]) => ({ kind: kind as "spawn", child: child as string })],
  [/(retire|revive) ([op])/, ([kind, cell]) => ({ kind: kind as "retire", cell: cell as string })],
  [
    new RegExp(`(${LOCK_VERBS.join("|")}) (${CELL})`),
    ([kind, cell]) => ({ kind: kind as LockVerb, cell: cell as string }),
  ],
  [/(r[0-3])=choose\((\d+)\)/, ([reg, n]) => ({ kind: "choose", reg: reg as string, n: Number(n) })],
  [
    new RegExp(`(${REG})=await (${CELL})(==|!=|>=)(\\d+)`),
    ([reg, cell, test, value]) => ({
      kind: "await",
      reg: reg as string,
      cell: cell as string,
      test: test as Test,
      value: Number(value),
    }),
  ],
  [
    new RegExp(`(${REG})=cas\\((${CELL}),(${OPERAND}),(${OPERAND})\\)`),
    ([reg, cell, expected, value]) => ({
      kind: "cas",
      reg: reg as string,
      cell: cell as string,
      expected: operand(expected),
      value: operand(value),
    }),
  ],
  [
    new RegExp(`(${REG})=(xadd|xchg|or|and)\\((${CELL}),(${OPERAND})\\)`),
    ([reg, kind, cell, value]) => ({
      kind: kind as "xadd",
      reg: reg as string,
      cell: cell as string,
      value: operand(value),
    }),
  ],
  [new RegExp(`(${REG})=\\*(${CELL})`), ([reg, cell]) => ({ kind: "peek", reg: reg as string, cell: cell as string })],
  [
    new RegExp(`\\*(${CELL})=(${OPERAND})`),
    ([cell, value]) => ({ kind: "poke", cell: cell as string, value: operand(value) }),
  ],
  [new RegExp(`(${REG})=(${CELL})`), ([reg, cell]) => ({ kind: "load", reg: reg as string, cell: cell as string })],
  [
    new RegExp(`(${CELL}):=(${OPERAND})`),
    ([cell, value]) => ({ kind: "storeNow", cell: cell as string, value: operand(value) }),
  ],
  [
    new RegExp(`(${CELL})=(${OPERAND})`),
    ([cell, value]) => ({ kind: "store", cell: cell as string, value: operand(value) }),
  ],
];

/** Every statement of the bodies, those in branches included. */
export function* statementsOf(tiny: Tiny): Generator<Statement> {
  for (const body of [...tiny.tasks, ...Object.values(tiny.children)]) yield* nested(body);
}

function* nested(body: readonly Statement[]): Generator<Statement> {
  for (const statement of body) {
    yield statement;
    if (statement.kind === "if") {
      yield* nested(statement.yes);
      yield* nested(statement.no);
    }
  }
}
