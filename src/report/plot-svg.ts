/**
 * Plots as one SVG, one below the other, drawn by Observable Plot.
 *
 * The same plots give the same bytes: nothing is measured in a browser, and no name is made up on the way. Colours are told apart by those who do not see red and
 * green alike (Okabe and Ito), and each line has a mark of its own.
 */
import domino, { type DominoElement } from "@mixmark-io/domino";
import * as Observable from "@observablehq/plot";
import { type Plot, type PlotAxis, type PlotLine, plotTitle } from "./plot.ts";

const WIDTH = 640;
const HEIGHT = 300;
const TITLE_HEIGHT = 26;
const LEGEND_LINE = 18;
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7f7f7f"];
const MARKS = ["circle", "square", "triangle", "diamond", "cross", "star", "wye"] as const;
/** Columns of text in the legend: about 7 units a character. */
const CHARACTER = 7;
const SAMPLE = 26;

/** @param background a colour that is laid below; null: what is below shows */
export function plotsSvg(plots: readonly Plot[], background: string | null = "white"): string {
  let top = 0;
  const parts: string[] = [];
  for (const plot of plots) {
    const legend = legendOf(plot.lines);
    parts.push(
      `<text x="8" y="${top + 18}" font-size="14" font-weight="600">${escaped(plotTitle(plot))}</text>`,
      `<g transform="translate(0,${top + TITLE_HEIGHT})">${legend.svg}</g>`,
      drawn(plot, top + TITLE_HEIGHT + legend.height),
    );
    top += TITLE_HEIGHT + legend.height + HEIGHT + 10;
  }
  const below = background === null ? "" : `<rect width="${WIDTH}" height="${top}" fill="${background}"/>`;
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${top}" viewBox="0 0 ${WIDTH} ${top}" font-family="DejaVu Sans, system-ui, sans-serif" font-size="12" fill="currentColor">
${below}${parts.join("\n")}
</svg>
`;
}

function legendOf(lines: readonly PlotLine[]): { svg: string; height: number } {
  let x = 8;
  let line = 0;
  const parts = lines.map(({ name, style }) => {
    const width = SAMPLE + name.length * CHARACTER + 14;
    if (x > 8 && x + width > WIDTH) {
      x = 8;
      line++;
    }
    const y = 10 + line * LEGEND_LINE;
    const colour = colourOf(style);
    const part = `<line x1="${x}" x2="${x + 20}" y1="${y}" y2="${y}" stroke="${colour}" stroke-width="1.5" stroke-dasharray="${dashesOf(style)}"/>${markAt(style, x + 10, y)}<text x="${x + SAMPLE}" y="${y + 4}">${escaped(name)}</text>`;
    x += width;
    return part;
  });
  return { svg: parts.join(""), height: (line + 1) * LEGEND_LINE + 4 };
}

/** The mark of a line, by itself. */
function markAt(i: number, x: number, y: number): string {
  const mark = chart({ width: 16, height: 16, margin: 8, axis: null, marks: [dots([[0, 0]], i)] });
  const shape = mark.querySelector("path, circle");
  shape?.removeAttribute("transform");
  for (const centre of ["cx", "cy"]) shape?.removeAttribute(centre);
  return `<g fill="${colourOf(i)}" transform="translate(${x},${y})">${shape?.outerHTML ?? ""}</g>`;
}

function colourOf(i: number): string {
  return COLOURS[i % COLOURS.length] as string;
}

/** Of two lines in one place both are seen. */
const DASHES = ["none", "8 4", "3 3", "10 3 3 3"];

function dashesOf(i: number): string {
  return DASHES[i % DASHES.length] as string;
}

function dots(points: readonly (readonly [number, number])[], i: number): Observable.Markish {
  const symbol = MARKS[i % MARKS.length] as (typeof MARKS)[number];
  return Observable.dot(points as [number, number][], { x: "0", y: "1", fill: colourOf(i), symbol, r: 3.5 });
}

/** Points beyond which a line has no marks: what is followed over time is a line. */
const MARKED_MAX = 40;

function drawn(plot: Plot, top: number): string {
  const { x, y, lines } = plot;
  const svg = chart({
    width: WIDTH,
    height: HEIGHT,
    marginLeft: 72,
    marginRight: 24,
    marginTop: 12,
    marginBottom: 40,
    x: scaleOf(x),
    y: scaleOf(y),
    marks: [
      Observable.gridY([...y.ticks]),
      Observable.axisX([...x.ticks], { text: x.format, label: x.label, labelArrow: "none" }),
      Observable.axisY([...y.ticks], { text: y.format, label: null }),
      Observable.ruleY([y.range[0]], { strokeOpacity: 0.4 }),
      ...lines.map(({ points, style }) =>
        Observable.lineY(points as [number, number][], {
          x: "0",
          y: "1",
          stroke: colourOf(style),
          strokeWidth: 1.5,
          strokeDasharray: dashesOf(style),
          curve: plot.steps ? "step-after" : "linear",
        }),
      ),
      ...lines.map(({ points, style }) => (points.length > MARKED_MAX ? null : dots(points, style))),
    ],
  });
  svg.setAttribute("y", String(top));
  return svg.outerHTML;
}

/** Of a logarithmic scale the library labels some of the ticks only, so the axes are marks of their own. */
function scaleOf({ log, range }: PlotAxis): Observable.ScaleOptions {
  return { type: log ? "log" : "linear", domain: [...range], axis: null };
}

function chart(options: Observable.PlotOptions): DominoElement {
  const { document } = domino.createWindow("");
  const made = Observable.plot({ ...options, document, style: { fontSize: "12px", fontFamily: "inherit" } });
  // What it says for pages is of no use in a file of its own, and not understood there.
  made.querySelector("style")?.remove();
  for (const attribute of ["class", "style", "font-family", "font-size"]) made.removeAttribute(attribute);
  return made as unknown as DominoElement;
}

function escaped(value: string): string {
  return value.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}
