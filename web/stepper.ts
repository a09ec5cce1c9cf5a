/**
 * The part of a report that moves: steps through a race.
 *
 * Runs in the reader's browser, inside the one file that a report is. It finds its data in the page (`#races`), and draws for each race the CPUs
 * side by side, and beside them what memory, store buffers and locks hold after the step.
 */

/** One step of a race, as src/report/html.ts writes it. */
interface Step {
  readonly cpu: number;
  readonly text: string;
  /** The kernel function that it belongs to. */
  readonly heading: string | null;
  /** File and line of the model's source. */
  readonly place: string | null;
  readonly operation: string;
  /** The place in memory that it touches, by name; empty when it touches none. */
  readonly name: string;
  readonly value: string;
  /** What memory holds there after the step. */
  readonly memory: string | null;
  /** A store leaves the store buffer. */
  readonly drain: boolean;
  /** The step counts: another CPU can notice it. */
  readonly shared: boolean;
}

interface Race {
  readonly id: string;
  readonly model: "sc" | "tso";
  readonly tasks: readonly string[];
  readonly steps: readonly Step[];
  /** From this step on it repeats; null when it does not. */
  readonly cycleFrom: number | null;
  readonly verdict: string;
}

/** What a step of a race leaves behind. */
interface State {
  readonly memory: ReadonlyMap<string, string>;
  readonly buffers: ReadonlyMap<number, readonly string[]>;
  readonly changed: string | null;
}

function stateAfter(race: Race, last: number): State {
  const memory = new Map<string, string>();
  const buffers = new Map<number, string[]>();
  let changed: string | null = null;
  for (const step of race.steps.slice(0, last + 1)) {
    changed = null;
    if (step.name === "") continue;
    const isBuffered = race.model === "tso" && step.operation === "Store";
    if (isBuffered && !step.drain)
      buffers.set(step.cpu, [...(buffers.get(step.cpu) ?? []), `${step.name} = ${step.value}`]);
    if (step.drain) buffers.get(step.cpu)?.shift();
    if (step.memory === null || (isBuffered && !step.drain)) continue;
    if (memory.get(step.name) !== step.memory) changed = step.name;
    memory.set(step.name, step.memory);
  }
  return { memory, buffers, changed };
}

/** Bits of a page-table entry of the legacy layout, which NPT has, with KVM's software bits. */
const ENTRY_BITS: readonly (readonly [bit: bigint, name: string])[] = [
  [0n, "P"],
  [1n, "W"],
  [2n, "U"],
  [5n, "A"],
  [6n, "D"],
  [7n, "PS"],
  [9n, "host-W"],
  [10n, "MMU-W"],
  [11n, "MMU-present"],
  [63n, "NX"],
];

/** An entry's bits and frame, in words; null for what is no entry. */
function decodeEntry(name: string, value: string): string | null {
  if (!/^(spte|pte|pmd|pud)/.test(name) || !/^(0x)?[0-9a-f]+$/.test(value)) return null;
  const entry = BigInt(value.startsWith("0x") ? value : `0x${Number(value).toString(16)}`);
  const isSpte = name.startsWith("spte");
  if (isSpte && (entry & (1n << 11n)) === 0n) return (entry & 0xfffn) === 0n ? "not present" : "frozen";
  if (entry === 0n) return "not present";
  const bits = ENTRY_BITS.filter(([bit]) => (isSpte || bit < 9n) && (entry >> bit) % 2n === 1n).map(([, bit]) => bit);
  const frame = (entry >> 12n) & ((1n << 40n) - 1n);
  return `frame ${frame.toString(16)}: ${bits.join(" ")}`;
}

function element<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  className: string,
  text = "",
): HTMLElementTagNameMap[K] {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

/** The steps of all CPUs, one row each; returns the rows by step. */
function drawSteps(race: Race, into: HTMLElement, onChoose: (at: number) => void): readonly HTMLElement[] {
  into.style.setProperty("--cpus", String(race.tasks.length));
  for (const [cpu, task] of race.tasks.entries()) {
    const head = element("div", "cpu", `CPU ${cpu} (${task})`);
    head.style.gridColumn = String(cpu + 1);
    head.style.gridRow = "1";
    into.append(head);
  }
  const headings = new Map<number, string>();
  // Time goes down: each step has a row of its own, below the names of the CPUs.
  let line = 1;
  return race.steps.map((step, at) => {
    if (at === race.cycleFrom) {
      const mark = element("div", "cycle", "from here on, for ever");
      mark.style.gridRow = String(++line);
      into.append(mark);
    }
    const row = element("button", `step${step.shared ? "" : " private"}`);
    row.type = "button";
    row.style.gridColumn = String(step.cpu + 1);
    row.style.gridRow = String(++line);
    if (step.heading !== null && headings.get(step.cpu) !== step.heading) {
      row.append(element("span", "heading", step.heading));
    }
    headings.set(step.cpu, step.heading ?? headings.get(step.cpu) ?? "");
    row.append(element("span", "text", step.text));
    row.addEventListener("click", () => onChoose(at));
    into.append(row);
    return row;
  });
}

function drawState(race: Race, at: number, into: HTMLElement): void {
  const state = stateAfter(race, at);
  into.replaceChildren();
  const step = race.steps[at];
  into.append(element("p", "where", step?.place ?? "before the first step"));
  const table = element("table", "memory");
  for (const [name, value] of [...state.memory].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const row = element("tr", name === state.changed ? "changed" : "");
    const decoded = decodeEntry(name, value);
    row.append(element("td", "", name), element("td", "", decoded === null ? value : `${value} (${decoded})`));
    table.append(row);
  }
  into.append(element("h4", "", "Memory"), table);
  for (const [cpu, stores] of state.buffers) {
    if (stores.length === 0) continue;
    into.append(element("h4", "", `Store buffer of CPU ${cpu}`), element("p", "buffer", stores.join("; ")));
  }
}

/** Brings a row into view inside its pane, and leaves the page where it is. */
function scrollTo(pane: HTMLElement, row: HTMLElement | undefined): void {
  if (row === undefined) {
    pane.scrollTop = 0;
    return;
  }
  const top = row.offsetTop - pane.offsetTop;
  const isVisible = top >= pane.scrollTop && top + row.offsetHeight <= pane.scrollTop + pane.clientHeight;
  if (!isVisible) pane.scrollTop = top - pane.clientHeight / 2;
}

function start(race: Race, root: HTMLElement): void {
  const controls = element("div", "controls");
  const steps = element("div", "steps");
  const state = element("div", "state");
  const slider = element("input", "slider");
  slider.type = "range";
  slider.min = "-1";
  slider.max = String(race.steps.length - 1);
  slider.setAttribute("aria-label", "step");
  const label = element("span", "count");
  let at = -1;
  const show = (next: number): void => {
    at = Math.max(-1, Math.min(race.steps.length - 1, next));
    slider.value = String(at);
    label.textContent = `step ${at + 1} of ${race.steps.length}`;
    for (const [i, row] of rows.entries()) {
      row.classList.toggle("past", i < at);
      row.classList.toggle("now", i === at);
      row.classList.toggle("future", i > at);
    }
    scrollTo(steps, rows[at]);
    drawState(race, at, state);
  };
  const rows = drawSteps(race, steps, show);
  const button = (text: string, name: string, to: () => number): void => {
    const made = element("button", "control", text);
    made.type = "button";
    made.setAttribute("aria-label", name);
    made.addEventListener("click", () => show(to()));
    controls.append(made);
  };
  button("|<", "first", () => -1);
  button("<", "back", () => at - 1);
  button(">", "forward", () => at + 1);
  button(">|", "last", () => race.steps.length - 1);
  slider.addEventListener("input", () => show(Number(slider.value)));
  controls.append(slider, label);
  root.addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight" && event.target !== slider) show(at + 1);
    if (event.key === "ArrowLeft" && event.target !== slider) show(at - 1);
  });
  const panes = element("div", "panes");
  panes.append(steps, state);
  root.replaceChildren(controls, panes, element("p", "verdict", race.verdict));
  show(race.steps.length - 1);
}

const data = document.getElementById("races")?.textContent ?? "[]";
for (const race of JSON.parse(data) as Race[]) {
  const root = document.getElementById(race.id);
  if (root !== null) start(race, root);
}
