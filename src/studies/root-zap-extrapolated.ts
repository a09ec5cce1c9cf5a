/**
 * root-zap for more memory than can be built: one entry of a 5-level root, up to 256 TiB, from runs at 1 GiB and 2 GiB under roots of 5 levels.
 *
 * All that a zap does, it does for each leaf and each table, so what takes time grows in a straight line with the memory that is mapped, and with the
 * tables of level 3 (a part of 512 GiB has one):
 *
 *     all of it, the entries visited, the tables        in every design
 *     the longest RCU section                           of one pass: the whole entry is one section, so grace period and waits are as long
 *                                                       of the others: what they have at 1 GiB, or the section with the last step in it
 *
 * The last step of the others takes the empty tables above the 1G entries away in one go: none of their entries is left, but each is exchanged.
 * What depends on moments (faults, what RCU has waiting) is not extrapolated. A test holds all this against roots of 5 levels that can be built, the
 * widest that there are among them.
 */
import { stallWarnings } from "../kernel/index.ts";
import type { Figures } from "./measurement.ts";

/** GiB under one entry of a 4-level root: from here on the root has 5 levels. */
export const GIB_OF_LEVEL_4 = 512;
/** GiB under one entry of a 5-level root. */
export const GIB_OF_LEVEL_5 = 512 * 512;

const LINEAR = ["zap ns", "call ns", "CPU ns", "visited", "visited again", "tables"] as const;
/** What is as long as the section is in which one pass zaps everything. */
const SECTION = ["stretch ns", "preempt-off ns", "grace ns", "lock wait ns", "zap holds ns", "fault max ns"] as const;

/** Runs under a 5-level root, with a GiB and two; the last with its two parts 512 GiB apart, which have a table of level 3 each. */
export interface Runs {
  readonly atOne: Figures;
  readonly atTwo: Figures;
  readonly atTwoApart: Figures;
}

/**
 * @param onePass the design zaps an entry of the root, and all below, in one section
 * @param gib what is mapped
 * @param unit what the first run has, if not a GiB
 * @param regions parts of it that have tables of level 3 of their own
 * @param letsInNs how long the other designs go on at most before they see that somebody waits, and let him in: no section is longer but for its last step
 */
export function extrapolated(
  { atOne, atTwo, atTwoApart }: Runs,
  {
    onePass,
    gib,
    regions,
    letsInNs,
    unit = 1,
  }: { onePass: boolean; gib: number; regions: number; letsInNs: number; unit?: number },
): Figures {
  const perRegion = (name: string): number => (atTwoApart[name] ?? 0) - (atTwo[name] ?? 0);
  const line = (name: string): number => {
    const one = atOne[name] ?? 0;
    return one + ((atTwo[name] ?? 0) - one) * (gib / unit - 1) + perRegion(name) * (regions - 1);
  };
  const figures: Record<string, number | null> = {};
  for (const name of Object.keys(atOne)) figures[name] = null;
  for (const name of LINEAR) figures[name] = line(name);
  figures["CPUs"] = line("CPU ns") / line("zap ns");
  if (onePass) {
    for (const name of ["step ns", "last step ns"]) figures[name] = line(name);
    for (const name of SECTION) figures[name] = line(name);
    figures["stalls"] = stallWarnings(line("grace ns"));
    return figures;
  }
  // Earlier passes have left tables of levels 3 and 4 only, however much was mapped.
  const lastStep = (atOne["last step ns"] ?? 0) + perRegion("last step ns") * (regions - 1);
  figures["last step ns"] = lastStep;
  figures["step ns"] = Math.max(atOne["step ns"] ?? 0, lastStep);
  figures["stretch ns"] = Math.max(atOne["stretch ns"] ?? 0, letsInNs + lastStep);
  figures["stalls"] = stallWarnings(figures["stretch ns"]);
  return figures;
}
