/**
 * The tables of designs that the notes on the five threads have, row by row: which variants of the study stand for the row, and, where the verdict is not what the
 * notes expect, what is different. docs/findings/README.md is made from this and the studies' cells.
 */
import { figure, time } from "../../src/report/units.ts";

export interface NotedRow {
  readonly row: string;
  /** What the notes expect. */
  readonly expected: string;
  readonly variants: readonly string[];
  /** Only where the study finds something else: what. */
  readonly differs?: string;
  /** What is measured of the row, in virtual time. */
  readonly measured?: NotedMeasurement;
}

export interface NotedMeasurement {
  readonly variants: readonly string[];
  readonly set: Readonly<Record<string, number>>;
  /** What comes of it. @param metric a metric of a variant */
  readonly say: (metric: (variant: string, name: string) => number) => string;
}

export interface NotedTable {
  readonly study: string;
  readonly rows: readonly NotedRow[];
}

export const TABLES: readonly NotedTable[] = [
  {
    study: "lockless-walk",
    rows: [
      { row: "V0", expected: "no violation; longest hold grows with the slot", variants: ["V0"] },
      { row: "V1", expected: "lifetime fails", variants: ["V1"] },
      { row: "V2", expected: "lifetime fails with store buffers only", variants: ["V2"] },
      { row: "V3", expected: "lifetime holds, memory is unbounded", variants: ["V3"] },
      {
        row: "V3'",
        expected: "lifetime fails at the end of the walk",
        variants: ["V3'"],
        differs: "holds: x86 has no store overtake an earlier load",
      },
      { row: "V4a", expected: "lifetime fails", variants: ["V4a"] },
      { row: "V4b", expected: "both hold", variants: ["V4b"] },
      {
        row: "V5a",
        expected: "sleeps in atomic context; deadlock if the reader needs mmu_lock",
        variants: ["V5a", "V5a-spin", "V5a-spin-lock"],
      },
      {
        row: "V5b",
        expected: "both hold",
        variants: ["V5b"],
        differs: "what RCU keeps is bounded, memory is not: a parked page is not free",
      },
      {
        row: "V6",
        expected: "unbounded; bounded with readers that yield",
        variants: ["V6", "V6-yielding"],
        differs: "by the work of a grace period, which is no number: only a zap that waits is bounded",
      },
      { row: "V7", expected: "both hold", variants: ["V7"] },
    ],
  },
  {
    study: "lazy-large-spte",
    rows: [
      { row: "B1", expected: "livelock", variants: ["B1"] },
      { row: "B2", expected: "ends", variants: ["B2"] },
      { row: "B2'", expected: "livelock or extra retries", variants: ["B2'"] },
      { row: "B3", expected: "ends", variants: ["B3"] },
      { row: "B4", expected: "ends in two rounds at most", variants: ["B4"] },
      { row: "B5", expected: "ends", variants: ["B5"] },
      { row: "B6", expected: "eager drop faults, lazy does not", variants: ["B6-eager", "B6-lazy"] },
      { row: "B7", expected: "a dirty page is lost", variants: ["B7"] },
      { row: "B8", expected: "endless refault", variants: ["B8"] },
      {
        row: "B9",
        expected: "endless; ends with early 4K sizing",
        variants: ["B9", "B9-self-map-first", "B9-lazy"],
      },
    ],
  },
  {
    study: "lockless-aging",
    rows: [
      { row: "A0", expected: "no race", variants: ["A0"] },
      { row: "A1", expected: "lifetime fails", variants: ["A1"] },
      { row: "A2", expected: "a page of somebody else is changed", variants: ["A2"] },
      { row: "A3", expected: "deadlock on one CPU", variants: ["A3"] },
      {
        row: "A4",
        expected: "no violation on TSO; one where loads may follow later stores",
        variants: ["A4", "A4-reordered"],
      },
      { row: "A5", expected: "holds; without A/D bits young for ever", variants: ["A5", "A5-no-ad"] },
      {
        row: "A6",
        expected: "lost update by a plain store, or by writers that do not exchange",
        variants: ["A6-store", "A6-writers"],
        differs: "by a plain store only; writers of 6.12 lose a mark, and so do those of 7.2",
      },
      {
        row: "A7",
        expected: "all hold",
        variants: ["A7", "A7-no-ad"],
        differs: "a mark may be lost to a writer (cell logging), which aging tolerates",
      },
      { row: "A8", expected: "no violation", variants: ["A8"] },
      { row: "A9", expected: "two holders of one reverse map", variants: ["A9"] },
    ],
  },
  {
    study: "gpc-refresh",
    rows: [
      { row: "D0", expected: "isolation holds, progress fails", variants: ["D0"] },
      { row: "D0h", expected: "isolation fails", variants: ["D0h"] },
      { row: "D1", expected: "isolation fails for a nascent cache", variants: ["D1"] },
      {
        row: "D2",
        expected: "fine for a nascent cache, isolation fails for a valid one",
        variants: ["D2"],
        differs: "fails for a nascent one too: an invalidation may begin after the wait",
      },
      { row: "D3", expected: "deadlock", variants: ["D3"] },
      {
        row: "D3'",
        expected: "both hold",
        variants: ["D3'", "D3s"],
        differs: "one more invalidation goes unseen; with the sequence number (D3s) it holds",
      },
      {
        row: "D4",
        expected: "holds; without its barrier fails with store buffers only; a growing range starves it",
        variants: ["D4", "D4-nomb", "D4h"],
      },
      { row: "D5", expected: "isolation fails", variants: ["D5"] },
    ],
  },
  {
    study: "root-zap",
    rows: [
      { row: "Z1", expected: "2^27 leaves in one section, RCU stall", variants: ["Z1"] },
      { row: "Z2", expected: "one GiB, below 100 ms", variants: ["Z2"] },
      {
        row: "Z3",
        expected: "a level-1 table",
        variants: ["Z3"],
        differs: "with five levels the last step exchanges 513 empty tables",
      },
      {
        row: "Z4",
        expected: "not bound to the caller",
        variants: ["Z4", "Z4-put-first"],
        measured: {
          variants: ["Z2", "Z4"],
          set: { gib: 1, roots: 2 },
          say: (m) =>
            `with two roots of 1 GiB the call is over after ${time(m("Z4", "call ns"))} (${time(m("Z2", "call ns"))} when the caller zaps), and ${figure(m("Z4", "CPUs"))} CPUs are busy for ${time(m("Z4", "zap ns"))}: ${time(m("Z4", "CPU ns"))} of CPU time against ${time(m("Z2", "CPU ns"))}`,
        },
      },
      { row: "Z5", expected: "use after free through write-back", variants: ["Z5", "Z5-put-after"] },
      { row: "Z6", expected: "livelock when somebody always waits", variants: ["Z6", "Z6-once"] },
      {
        row: "Z7",
        expected: "a section of one GiB inside a fault",
        variants: ["Z7"],
        measured: {
          variants: ["Z7"],
          set: {},
          say: (m) =>
            `${time(m("Z7", "stretch ns"))} at 52 ns a leaf, in a vCPU's fault of ${time(m("Z7", "fault max ns"))}; explored at 2M`,
        },
      },
      {
        row: "Z8",
        expected: "a lost entry or table",
        variants: ["Z8", "Z8-frozen"],
        differs: "not while an invalid root is zapped, where no fault maps anything; in a root in use it is so",
      },
    ],
  },
];
