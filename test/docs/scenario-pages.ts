/**
 * Pages that say which cells explore what must be explored, and which mutations they notice. What is listed here is what a page promises; its table is
 * made from this, from the studies and from test/mutations.
 */

/** Cells that explore a scenario: of one study and variant, by their scenarios. */
export interface Explored {
  readonly study: string;
  readonly variant: string;
  readonly scenarios: readonly string[];
}

export interface Scenario {
  readonly name: string;
  /** Cells that must hold, and what must be noticed there when it is undone. */
  readonly holds: readonly Explored[];
  /** The same where a design is wrong, and must fail. */
  readonly fails?: readonly Explored[];
}

export interface ScenarioPage {
  readonly page: string;
  readonly scenarios: readonly Scenario[];
}

const sync = { study: "shadow-sync", variant: "7.2" } as const;
const yielding = { study: "shadow-sync", variant: "7.2-yielding" } as const;
const write = { study: "shadow-write", variant: "7.2" } as const;
const zap = { study: "shadow-zap", variant: "7.2" } as const;
const protect = { study: "shadow-protect", variant: "7.2" } as const;

const tdpFault = { study: "tdp-fault", variant: "7.2" } as const;
const hugePages = { study: "huge-pages", variant: "7.2" } as const;
const rootInvalidate = { study: "root-invalidate", variant: "7.2" } as const;

export const SCENARIO_PAGES: readonly ScenarioPage[] = [
  {
    page: "docs/shadow-scenarios.md",
    scenarios: [
      {
        name: "a lockless walk against a zap: mode, interrupts off, IPI, free",
        holds: [{ ...zap, scenarios: ["fast-fault", "hardware"] }],
        fails: [
          { study: "bugs-ordering", variant: "T05a-unfixed", scenarios: ["walk"] },
          { study: "bugs-ordering", variant: "T05b-unfixed", scenarios: ["walk"] },
          { study: "bugs-ordering", variant: "T05c-unfixed", scenarios: ["walk"] },
        ],
      },
      {
        name: "write protection against a fast page fault",
        holds: [{ ...protect, scenarios: ["log-writable", "log-protected", "table", "directory"] }],
      },
      {
        name: "unsync against MOV to CR3 and INVLPG",
        holds: [{ ...sync, scenarios: ["cr3", "invlpg", "again"] }],
        fails: [{ study: "shadow-sync", variant: "unordered", scenarios: ["cr3"] }],
      },
      {
        name: "a write to a page table against another vCPU's fault",
        holds: [
          { ...write, scenarios: ["replace", "replace-handled", "table-first", "directory-first", "pages-first"] },
        ],
      },
      {
        name: "removal from a reverse map against aging",
        holds: [{ study: "lockless-aging", variant: "A7", scenarios: ["zap", "many", "add", "reuse", "one-cpu"] }],
        fails: [
          { study: "lockless-aging", variant: "A1", scenarios: ["zap", "many"] },
          { study: "lockless-aging", variant: "A2", scenarios: ["reuse"] },
        ],
      },
      {
        name: "write flooding against a walk",
        holds: [{ ...write, scenarios: ["flood", "flood-walk", "flood-fetch"] }],
      },
      {
        name: "bringing in step against a zap",
        holds: [
          { ...sync, scenarios: ["zap", "cr3-unmap", "invlpg-unmap"] },
          { ...yielding, scenarios: ["again-handled", "zap-two", "cr3-unmap"] },
        ],
      },
      {
        name: "recycling against a fault in flight",
        holds: [
          { ...zap, scenarios: ["recycle-hardware", "recycle-fast", "recycle-fetch", "recycle-unsync", "fetch"] },
        ],
      },
      {
        name: "the notifier's unmapping against fetch()",
        holds: [{ study: "shadow-fault", variant: "7.2", scenarios: ["unmap"] }],
      },
    ],
  },
  {
    page: "docs/tdp-scenarios.md",
    scenarios: [
      { name: "map against map on the same table", holds: [{ ...tdpFault, scenarios: ["two-maps", "same-page"] }] },
      { name: "map against unmap notifier", holds: [{ ...tdpFault, scenarios: ["unmap", "cold-unmap", "reenter"] }] },
      { name: "map against root invalidation", holds: [{ ...rootInvalidate, scenarios: ["map", "drop"] }] },
      {
        name: "split against fault",
        holds: [
          {
            ...hugePages,
            scenarios: ["eager-split", "eager-split-yield", "lazy-split", "split-twice", "split-log"],
          },
        ],
      },
      {
        name: "zap with yields against faults",
        holds: [
          { study: "zap-yield", variant: "7.2", scenarios: ["cached", "last", "fault", "zap-gfn-range"] },
          { ...rootInvalidate, scenarios: ["yield"] },
        ],
      },
      {
        name: "recovery of huge pages against faults",
        holds: [
          { ...hugePages, scenarios: ["recover", "nx-empty"] },
          { study: "huge-pages", variant: "6.12", scenarios: ["recover", "nx-empty"] },
        ],
      },
      {
        name: "clearing the dirty log against fast page faults and the CPU's D bit",
        holds: [
          {
            study: "dirty-log",
            variant: "7.2",
            scenarios: ["writable", "protected", "clear", "clear-protected", "ring"],
          },
          { study: "dirty-log", variant: "7.2-pml", scenarios: ["writable", "protected", "clear"] },
        ],
      },
      {
        name: "aging against fast page faults and zap",
        holds: ["7.2", "7.2-no-ad"].map((variant) => ({
          study: "aging",
          variant,
          scenarios: ["access", "zap", "fast-fault", "fetch-log"],
        })),
      },
      {
        name: "NX recovery against faults",
        holds: [{ ...hugePages, scenarios: ["nx-fetch", "nx-split", "nx-recover"] }],
      },
      {
        name: "memslot deletion against faults in flight",
        holds: [
          { study: "memslot-delete", variant: "zap-all", scenarios: ["mapped", "fault"] },
          { study: "memslot-delete", variant: "zap-slot", scenarios: ["mapped", "fault", "notifier"] },
        ],
      },
    ],
  },
];
