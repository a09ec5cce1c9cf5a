/**
 * What a guest starts from: control registers and page-table entries (`<case>.initial.json`, traces/README.md), the same for all vcpus.
 *
 * Each row of `page_table_entries` describes a run of consecutive entries:
 *
 *     ["0x40012000", "0xe7", 8, 4, "0x200000"]
 *        gpa          value  |  |   what the value grows by from one entry to the next
 *                            |  number of entries
 *                            bytes of one entry
 */
import { z } from "zod";
import type { U64 } from "../engine/index.ts";
import { amount, integer, leaf, list, parse, readJson, readU64, record, text, usageError } from "./json-input.ts";

/** A run of consecutive guest page-table entries. */
export interface TableEntries {
  /** Guest-physical address of the first entry. */
  readonly gpa: number;
  readonly value: U64;
  /** Bytes of one entry: 8, or 4 in 32-bit paging. */
  readonly entrySize: 4 | 8;
  readonly count: number;
  /** What the value grows by, modulo 2^64. */
  readonly step: U64;
}

export interface InitialState {
  readonly cr0: number;
  readonly cr3: number;
  readonly cr4: number;
  readonly efer: number;
  readonly pageTableEntries: readonly TableEntries[];
}

const initialObject = record({
  note: text("a note", '"why"').optional(),
  cr0: amount("a value of CR0", '"0x80010011"'),
  cr3: amount("a value of CR3", '"0x40010000"'),
  cr4: amount("a value of CR4", '"0x20"'),
  efer: amount("a value of EFER", '"0xd00"'),
  page_table_entries: list(list(z.unknown())),
});

const gpa = amount("a guest-physical address", '"0x40010000"');
const entrySize = leaf("bytes of an entry (4 or 8)", "8", (input) => (input === 4 || input === 8 ? input : undefined));
const count = integer("a number of entries", 0, 1 << 30);
const value = leaf("a 64-bit value", '"0x67"', readU64);

/** @throws UsageError, one line, for whatever is wrong with the file */
export function readInitialState(file: string): InitialState {
  const raw = parse(file, initialObject, readJson(file));
  return {
    cr0: raw.cr0,
    cr3: raw.cr3,
    cr4: raw.cr4,
    efer: raw.efer,
    pageTableEntries: raw.page_table_entries.map((row, at) => {
      const path = ["page_table_entries", at];
      if (row.length !== 5) {
        const what = `has ${row.length} columns; write address, value, entry size, count, step`;
        throw usageError(file, `page_table_entries[${at}]`, what);
      }
      return {
        gpa: parse(file, gpa, row[0], [...path, 0]),
        value: parse(file, value, row[1], [...path, 1]),
        entrySize: parse(file, entrySize, row[2], [...path, 2]),
        count: parse(file, count, row[3], [...path, 3]),
        step: parse(file, value, row[4], [...path, 4]),
      };
    }),
  };
}
