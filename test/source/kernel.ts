/** What tests on a compiled kernel need, and why they are skipped where it is missing. */
import { existsSync, readdirSync } from "node:fs";
import { findToolchain, lackingText } from "../../src/source/index.ts";

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
