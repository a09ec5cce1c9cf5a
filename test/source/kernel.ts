/** What tests on a compiled kernel need, and why they are skipped where it is missing. */
import { existsSync, mkdtempSync, readdirSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findToolchain, lackingText, loadStudyOnKernel } from "../../src/source/index.ts";
import { planCells } from "../../src/studies/cells.ts";
import { runCells } from "../../src/studies/run.ts";

const PLACE = "/usr/src";

/** Debian's kernel source, and null when all is there; else what is missing. @param series `6.1`, which studies run on; `6.12`, which was recorded */
export function kernelSource(series: "6.1" | "6.12" = "6.1"): {
  readonly source: string;
  readonly missing: string | null;
} {
  const names = existsSync(PLACE) ? readdirSync(PLACE) : [];
  const source = names.find((name) => name === `linux-source-${series}.tar.xz`);
  const headers = names.some((name) => name.startsWith(`linux-headers-${series}.`) && name.endsWith("-amd64"));
  const { lacking } = findToolchain();
  if (lacking.length > 0) return { source: "", missing: lackingText(lacking) };
  if (source === undefined) return { source: "", missing: `needs the package linux-source-${series}` };
  if (!headers) return { source: "", missing: `needs the package linux-headers-${series}*-amd64` };
  return { source: `${PLACE}/${source}`, missing: null };
}

/** A patch of one line. */
export function changed(file: string, line: number, before: string, after: string): string {
  return `--- a/${file}\n+++ b/${file}\n@@ -${line} +${line} @@\n-${before}\n+${after}\n`;
}

/** What became of one cell. */
export interface Row {
  readonly diagram: string | null;
  readonly text: string;
}

/** The scenarios of a study on a kernel and on the patched one: what became of each, those of the kernel first. */
export async function verdictsOn(
  source: string,
  study: string,
  patch: string,
  scenarios: readonly string[],
  model: "sc" | "tso" = "sc",
): Promise<Row[]> {
  const file = join(mkdtempSync(join(tmpdir(), "racewalk-")), "a.patch");
  writeFileSync(file, patch);
  const loaded = await loadStudyOnKernel(study, {
    ...{ on: `kernel:${source}`, patch: file, scenarios },
    say: () => undefined,
  });
  const plan = planCells(loaded.study, { variants: [], model, strategy: null, bounds: {} });
  const wanted = plan.filter(({ scenario }) => scenarios.includes(scenario));
  const options = { workers: 2, allSteps: false, signal: new AbortController().signal, resume: null };
  const { cells } = await runCells(loaded, wanted, options);
  return cells.map(({ variant, scenario, property, verdict, complete, diagram }) => ({
    diagram,
    text: `${variant} ${scenario} ${property} ${verdict}${complete ? "" : " incomplete"}`,
  }));
}
