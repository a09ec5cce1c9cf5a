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
];
