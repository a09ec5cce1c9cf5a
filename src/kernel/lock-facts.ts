/**
 * How locks are used, as lockdep looks at it: over all executions, whether or not a deadlock came of it.
 *
 * Two locks (or more, in a circle) that are taken in both orders can deadlock. A lock that an interrupt handler takes must not be held by a thread
 * that can be interrupted on the same CPU: the handler would spin for ever on a lock whose holder it has pushed aside. Two readers do not
 * exclude each other. Threads note what they do as facts; what does not go together is found by the facts' keys alone.
 */
import type { Fact, FactJudge, Judgement, Task } from "../engine/index.ts";

type HeldAs = "exclusive" | "shared";
type Where = "interrupt" | "interruptible";

/** Locks by name, as lockdep goes by classes: what is true of one vCPU's lock is true of another's of that name. */
interface OrderKey {
  readonly kind: "order";
  readonly held: string;
  readonly taken: string;
  readonly task: string;
}

interface UseKey {
  readonly kind: "use";
  readonly lock: string;
  readonly as: HeldAs;
  readonly where: Where;
  readonly task: string;
}

type Key = OrderKey | UseKey;

/** What one thread has noted. It notes the same things again and again: only the first time of each counts. */
export class LockFacts {
  readonly list: Fact[] = [];
  private readonly task: Task;
  private readonly judge: LockJudge;

  constructor(task: Task, judge: LockJudge) {
    this.task = task;
    this.judge = judge;
  }

  /** A lock is about to be taken while another is held. @param heldAt the operation that took that one */
  order(held: string, heldAt: number, taken: string): void {
    if (held === taken) return;
    const key = this.judge.orderKey(this.task.name, held, taken);
    if (this.isNew(key)) {
      this.list.push({ key, lane: this.task.lane, text: `takes ${held}, then ${taken}`, at: [heldAt, this.next] });
    }
  }

  /** A spinning lock is about to be taken. */
  use(lock: string, as: HeldAs, where: Where): void {
    const key = this.judge.useKey(this.task.name, lock, as, where);
    if (!this.isNew(key)) return;
    const how = where === "interrupt" ? "in interrupt context" : "with interrupts enabled";
    this.list.push({ key, lane: this.task.lane, text: `takes ${lock} ${how}`, at: [this.next] });
  }

  /** The number of the operation that the thread asks for next. */
  get next(): number {
    return this.task.made + 1;
  }

  private isNew(key: string): boolean {
    return !this.list.some((fact) => fact.key === key);
  }
}

/** Says which facts about locks do not go together. */
export class LockJudge implements FactJudge {
  private readonly listOf: (task: Task) => readonly Fact[];
  /** Keys as text, by what they are of: made once, because locks are taken in every execution. */
  private readonly keys = new Map<string, Map<string, Map<string, string>>>();
  /** All keys that were ever judged. What goes together with all of them goes together with a few of them. */
  private readonly seen = new Set<string>();
  private isHarmless = true;

  constructor(listOf: (task: Task) => readonly Fact[]) {
    this.listOf = listOf;
  }

  orderKey(task: string, held: string, taken: string): string {
    return this.keyOf(task, held, taken, () => ({ kind: "order", held, taken, task }));
  }

  useKey(task: string, lock: string, as: HeldAs, where: Where): string {
    // Two words: no lock has such a name.
    return this.keyOf(task, lock, as === "shared" ? `shared ${where}` : `exclusive ${where}`, () => {
      return { kind: "use", lock, as, where, task };
    });
  }

  factsOf(task: Task): readonly Fact[] {
    return this.listOf(task);
  }

  judge(keys: readonly string[]): readonly Judgement[] {
    let isNew = false;
    for (const key of keys) {
      if (this.seen.has(key)) continue;
      this.seen.add(key);
      isNew = true;
    }
    if (isNew) this.isHarmless = judgementsOf([...this.seen]).length === 0;
    return this.isHarmless ? [] : judgementsOf(keys);
  }

  private keyOf(task: string, first: string, second: string, make: () => Key): string {
    const known = this.keys.get(task)?.get(first)?.get(second);
    if (known !== undefined) return known;
    const key = JSON.stringify(make());
    const ofTask = this.keys.get(task) ?? new Map<string, Map<string, string>>();
    const ofFirst = ofTask.get(first) ?? new Map<string, string>();
    this.keys.set(task, ofTask.set(first, ofFirst.set(second, key)));
    return key;
  }
}

function judgementsOf(keys: readonly string[]): Judgement[] {
  const facts = [...keys].sort().map((text) => ({ text, key: JSON.parse(text) as Key }));
  return [...circles(facts), ...mixedUses(facts)];
}

interface Parsed {
  readonly text: string;
  readonly key: Key;
}

/** Locks that are taken in a circle of orders, each circle once. */
function circles(facts: readonly Parsed[]): Judgement[] {
  const found = new Map<string, Judgement>();
  for (const { text, key } of facts) {
    if (key.kind !== "order") continue;
    const back = wayBack(facts, key.taken, key.held);
    if (back === null) continue;
    const names = [key.held, ...back.map((fact) => (fact.key as OrderKey).held)].sort();
    const message =
      names.length === 2
        ? `${names.join(" and ")} are taken in both orders`
        : `${names.join(", ")} are taken in orders that go round in a circle`;
    if (!found.has(message)) {
      found.set(message, { property: "lock-order", message, keys: [text, ...back.map((fact) => fact.text)] });
    }
  }
  return [...found.values()];
}

/** The shortest chain of orders from one lock to another. */
function wayBack(facts: readonly Parsed[], from: string, to: string): Parsed[] | null {
  const ways = new Map<string, Parsed[]>([[from, []]]);
  for (const [name, way] of ways) {
    if (name === to) return way;
    for (const fact of facts) {
      if (fact.key.kind !== "order" || fact.key.held !== name || ways.has(fact.key.taken)) continue;
      ways.set(fact.key.taken, [...way, fact]);
    }
  }
  return null;
}

/** Locks that are taken in interrupt context, and by threads that can be interrupted. */
function mixedUses(facts: readonly Parsed[]): Judgement[] {
  const found = new Map<string, Judgement>();
  for (const { text, key } of facts) {
    if (key.kind !== "use" || key.where !== "interrupt") continue;
    const other = facts.find(
      ({ key: they }) =>
        they.kind === "use" &&
        they.where === "interruptible" &&
        they.lock === key.lock &&
        (they.as === "exclusive" || key.as === "exclusive"),
    );
    if (other === undefined) continue;
    const message = `${key.lock} is taken in interrupt context, and with interrupts enabled`;
    if (!found.has(message)) found.set(message, { property: "irq-unsafe-lock", message, keys: [text, other.text] });
  }
  return [...found.values()];
}
