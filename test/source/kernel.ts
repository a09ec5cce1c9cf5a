/** What tests on a compiled kernel need, and why they are skipped where it is missing. */
import { existsSync, readdirSync } from "node:fs";
import { findToolchain, lackingText } from "../../src/source/index.ts";

const PLACE = "/usr/src";

/** Debian's kernel source, and null when all is there; else what is missing. */
export function kernelSource(): { readonly source: string; readonly missing: string | null } {
  const names = existsSync(PLACE) ? readdirSync(PLACE) : [];
  const source = names.find((name) => /^linux-source-6\.1\.tar\.xz$/.test(name));
  const headers = names.some((name) => /^linux-headers-6\.1\..*-amd64$/.test(name));
  const { lacking } = findToolchain();
  if (lacking.length > 0) return { source: "", missing: lackingText(lacking) };
  if (source === undefined) return { source: "", missing: "needs the package linux-source-6.1" };
  if (!headers) return { source: "", missing: "needs the package linux-headers-6.1.0-*-amd64" };
  return { source: `${PLACE}/${source}`, missing: null };
}
