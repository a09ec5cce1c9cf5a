/**
 * The part of a report that moves: steps through a race.
 *
 * Runs in the reader's browser, inside the one file that a report is. It finds its data in the page (`#races`), and draws for each race the CPUs
 * side by side, and beside them what locks, store buffers, TLBs, page tables and memory hold after the step.
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

/** By heading and row: what stands there; null: no longer anything. */
type Views = Readonly<Record<string, Readonly<Record<string, string | null>>>>;

interface Race {
  readonly id: string;
  readonly model: "sc" | "tso";
  readonly tasks: readonly string[];
  readonly steps: readonly Step[];
  /** What there is to see before the first step, and what each step changes of it. */
  readonly views: { readonly first: Views; readonly after: readonly Views[] };
  /** From this step on it repeats; null when it does not. */
  readonly cycleFrom: number | null;
  readonly verdict: string;
}

type Rows = Map<string, string>;

/** The places that the race touches and what they hold after the step. */
function memoryAfter(race: Race, last: number): { memory: Rows; changed: string | null } {
  const memory: Rows = new Map();
  let changed: string | null = null;
  for (const step of race.steps.slice(0, last + 1)) {
    changed = null;
    const waits = race.model === "tso" && step.operation === "Store" && !step.drain;
    if (step.name === "" || step.memory === null || waits) continue;
    if (memory.get(step.name) !== step.memory) changed = step.name;
    memory.set(step.name, step.memory);
  }
  return { memory, changed };
}

/** Everything else that there is to see after the step, by heading, in the order of the report's data. */
function viewsAfter({ views }: Race, last: number): Map<string, Rows> {
  const all = new Map<string, Rows>();
  for (const change of [views.first, ...views.after.slice(0, last + 1)]) {
    for (const [heading, rows] of Object.entries(change)) {
      const shown = all.get(heading) ?? new Map<string, string>();
      all.set(heading, shown);
      for (const [row, text] of Object.entries(rows)) {
        if (text === null) shown.delete(row);
        else shown.set(row, text);
      }
    }
  }
  return all;
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
  // Who only serves others, and was not needed, has no column.
  const busy = [...new Set(race.steps.map(({ cpu }) => cpu))].sort((a, b) => a - b);
  into.style.setProperty("--cpus", String(busy.length));
  for (const [column, cpu] of busy.entries()) {
    const task = race.tasks[cpu] ?? "";
    const head = element("div", "cpu", `CPU ${cpu} (${task})`);
    head.style.gridColumn = String(column + 1);
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
    row.style.gridColumn = String(busy.indexOf(step.cpu) + 1);
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

/** The order of the headings; what is not among them comes last. */
const HEADINGS = [
  "Store buffers",
  "Locks",
  "RCU",
  "CPUs",
  "KVM",
  "gfn_to_pfn_cache",
  "TLBs",
  "Page tables",
  "Host page tables",
];
const MEMORY = "Memory touched so far";

/** What is folded away stays so from step to step. */
type Folded = Set<string>;

function drawState(race: Race, at: number, into: HTMLElement, folded: Folded): void {
  into.replaceChildren(element("p", "where", race.steps[at]?.place ?? "before the first step"));
  const views = viewsAfter(race, at);
  const changes = (at < 0 ? undefined : race.views.after[at]) ?? {};
  const order = (heading: string): number => (HEADINGS.indexOf(heading) + HEADINGS.length + 1) % (HEADINGS.length + 1);
  for (const heading of [...views.keys()].sort((a, b) => order(a) - order(b))) {
    const changed = new Set(Object.keys(changes[heading] ?? {}));
    drawRows(heading, views.get(heading) ?? new Map(), changed, into, folded);
  }
  const { memory, changed } = memoryAfter(race, at);
  const sorted: Rows = new Map([...memory].sort(([a], [b]) => (a < b ? -1 : 1)));
  drawRows(MEMORY, sorted, new Set(changed === null ? [] : [changed]), into, folded);
}

function drawRows(heading: string, rows: Rows, changed: ReadonlySet<string>, into: HTMLElement, folded: Folded): void {
  const gone = [...changed].filter((row) => !rows.has(row));
  if (rows.size === 0 && gone.length === 0) return;
  const box = element("details", "view");
  box.open = !folded.has(heading);
  box.addEventListener("toggle", () => {
    if (box.open) folded.delete(heading);
    else folded.add(heading);
  });
  const summary = element("summary", changed.size > 0 ? "changed" : "", heading);
  const table = element("table", "rows");
  for (const [name, text] of rows) table.append(rowOf(name, text, changed.has(name) ? "changed" : ""));
  for (const name of gone) table.append(rowOf(name, "no longer", "changed gone"));
  box.append(summary, table);
  into.append(box);
}

function rowOf(name: string, text: string, className: string): HTMLElement {
  const row = element("tr", className);
  row.append(element("td", "", name), element("td", "", text));
  return row;
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

/** A race with more steps is shown without those that nobody else can notice, until the reader wants them. */
const MANY_STEPS = 60;

function start(race: Race, root: HTMLElement): void {
  const controls = element("div", "controls");
  const steps = element("div", "steps");
  const state = element("div", "state");
  const folded: Folded = new Set([MEMORY]);
  const slider = element("input", "slider");
  slider.type = "range";
  slider.min = "-1";
  slider.max = String(race.steps.length - 1);
  slider.setAttribute("aria-label", "step");
  const label = element("span", "count");
  const everything = element("input", "everything");
  everything.type = "checkbox";
  // Of a long race those steps are of interest that another CPU can notice.
  everything.checked = race.steps.length <= MANY_STEPS;
  let at = -1;
  const isShown = (step: number): boolean => everything.checked || (race.steps[step]?.shared ?? true);
  /** The next step that is shown, from `from` in that direction; the first or last of all when there is none. */
  const next = (from: number, by: 1 | -1): number => {
    let step = from + by;
    while (step >= 0 && step < race.steps.length && !isShown(step)) step += by;
    return step;
  };
  const show = (wanted: number): void => {
    at = Math.max(-1, Math.min(race.steps.length - 1, wanted));
    slider.value = String(at);
    label.textContent = `step ${at + 1} of ${race.steps.length}`;
    for (const [i, row] of rows.entries()) {
      row.classList.toggle("past", i < at);
      row.classList.toggle("now", i === at);
      row.classList.toggle("future", i > at);
      row.hidden = !isShown(i) && i !== at;
    }
    scrollTo(steps, rows[at]);
    drawState(race, at, state, folded);
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
  button("<", "back", () => next(at, -1));
  button(">", "forward", () => next(at, 1));
  button(">|", "last", () => race.steps.length - 1);
  slider.addEventListener("input", () => show(Number(slider.value)));
  const all = element("label", "all");
  all.append(everything, " steps of one CPU alone, too");
  everything.addEventListener("change", () => show(at));
  controls.append(slider, label);
  if (race.steps.some(({ shared }) => !shared)) controls.append(all);
  root.addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight" && event.target !== slider) show(next(at, 1));
    if (event.key === "ArrowLeft" && event.target !== slider) show(next(at, -1));
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
