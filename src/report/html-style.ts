/** How a report looks: one column on a phone, CPUs side by side where there is room, black on white on paper. */
export const STYLE = `
:root { color-scheme: light dark; --line: #8886; --soft: #8881; --bad: #b3261e; --good: #1b6e3c; --now: #ffd75e; --ink: #111; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem; font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .2rem 0; }
h2 { font-size: 1.15rem; margin: 2rem 0 .4rem; }
h4 { font-size: .85rem; margin: .8rem 0 .2rem; }
.id { font-family: ui-monospace, monospace; margin: 0; }
.source { opacity: .75; margin: .2rem 0; }
code, pre, .steps, .state { font: 13px/1.4 ui-monospace, "DejaVu Sans Mono", monospace; }
code.command { overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; }
.verdicts { font-size: .85rem; }
.verdicts th, .verdicts td { text-align: left; vertical-align: top; padding: .2rem .6rem .2rem 0; border-bottom: 1px solid var(--line); }
.verdicts .fails td:nth-child(5) { color: var(--bad); font-weight: 600; }
.verdicts .holds td:nth-child(5) { color: var(--good); font-weight: 600; }
.verdicts .surprise td:nth-child(5) { background: var(--bad); color: #fff; }
dt { font-weight: 600; } dd { margin: 0 0 .4rem 1rem; }
.diagram { overflow-x: auto; padding: .6rem; background: var(--soft); border: 1px solid var(--line); }
.stepper { border: 1px solid var(--line); padding: .6rem; }
.controls { display: flex; flex-wrap: wrap; gap: .4rem; align-items: center; }
.control { font: inherit; min-width: 2.6rem; min-height: 2.2rem; }
.slider { flex: 1 1 8rem; min-width: 6rem; }
.panes { display: grid; grid-template-columns: minmax(0, 3fr) minmax(0, 2fr); gap: 1rem; margin-top: .6rem; }
.steps { display: grid; grid-template-columns: repeat(var(--cpus), minmax(0, 1fr)); gap: 0 .6rem; align-content: start; max-height: 30rem; overflow: auto; }
.cpu { font-weight: 600; position: sticky; top: 0; z-index: 1; background: Canvas; border-bottom: 1px solid var(--line); }
.cycle { grid-column: 1 / -1; text-align: center; border-top: 1px dashed var(--bad); color: var(--bad); }
.step { font: inherit; text-align: left; border: 0; background: none; color: inherit; padding: 2px 3px; overflow-wrap: anywhere; cursor: pointer; }
.step[hidden] { display: none; }
.step .heading { display: block; font-weight: 600; }
.step.private { opacity: .65; }
.step.future { opacity: .35; }
.step.now { background: var(--now); color: var(--ink); opacity: 1; }
.state { overflow-wrap: anywhere; max-height: 44rem; overflow: auto; }
.verdicts td:last-child { min-width: 14rem; }
.figure svg { max-width: 100%; height: auto; }
.figure { margin: 0 0 1rem; }
.view { margin: .3rem 0; }
.view summary { font: 600 .85rem system-ui, sans-serif; cursor: pointer; }
.view summary.changed::after { content: " \\2022"; color: var(--bad); }
.rows { width: 100%; }
.rows td { padding: 0 .6rem 0 0; vertical-align: top; border-bottom: 1px solid var(--soft); }
.rows td:first-child { width: 42%; }
.rows .changed { background: var(--now); color: var(--ink); }
.rows .gone td:last-child { font-style: italic; }
.verdict { color: var(--bad); font-weight: 600; margin: .6rem 0 0; }
footer { margin-top: 3rem; opacity: .7; font-size: .85rem; }
@media (max-width: 42rem) {
  .panes { grid-template-columns: minmax(0, 1fr); }
  .figure { overflow-x: auto; }
  .figure svg { max-width: none; width: 32rem; }
  .steps { max-height: 22rem; gap: 0 .3rem; }
  code, pre, .steps, .state { font-size: 11px; }
}
@media print {
  .stepper { display: none; }
  body { max-width: none; font-size: 11pt; }
  .race, .figure { break-inside: avoid-page; }
}
`;
