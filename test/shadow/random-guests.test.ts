import { describe, expect, test } from "vitest";
import { runChecked } from "../../src/conform/checked-run.ts";
import { parseWorkload } from "../../src/conform/workload.ts";
import { type Departures, NO_DEPARTURES } from "../../src/oracle/coherence/index.ts";
import { failureText, newCampaignTotals, shadowCampaign } from "./campaign.ts";
import { randomGuest } from "./random-guest.ts";

/** A few; bench/coherence/run.ts runs as many as one likes. */
const SEQUENCES = 150;

test("random guests see what the architecture allows, and KVM's books are right at every step", () => {
  const totals = newCampaignTotals();
  const failing = shadowCampaign(1_000_000, SEQUENCES, totals);
  expect(failing === null ? null : failureText(failing)).toBeNull();
  expect(totals.sequences).toBe(SEQUENCES);
  // A campaign that ends at once would hold, too.
  expect(totals.judged).toBeGreaterThan(500 * SEQUENCES);
  expect(totals.ends.get("guest-fault") ?? 0).toBeGreaterThan(2 * SEQUENCES);
});

test("the same seed makes the same guest", () => {
  expect(randomGuest(7)).toEqual(randomGuest(7));
  expect(randomGuest(7)).not.toEqual(randomGuest(8));
});

describe("where KVM departs from the manual, and a strict oracle says so", () => {
  const va = "0x8040000";
  const leaf = (pa: string, flags: string): object => ({ va, pa, len: "4K", page: "4k", flags });
  const document = (paging: object, ops: readonly object[]): object => ({
    name: "departure",
    kernel_params: { npt: 0 },
    memory: [
      { slot: 0, gpa: "0x0", size: "8M", backing: "anon4k" },
      { slot: 1, gpa: "0x20000000", size: "64K", backing: "anon4k", later: true },
    ],
    guest_paging: paging,
    ops,
  });
  const propertyOf = (input: object, departures?: Departures): string | null => {
    const workload = parseWorkload("departure", input);
    const more = departures === undefined ? {} : { departures };
    return runChecked({ workload, kernel: "v6.12", keepsTlb: false, ...more }).problem?.property ?? null;
  };

  test("a fault that says not present does not make it forget the address", () => {
    const input = document({ mode: "4level", maps: [leaf("0x10000", "puad")] }, [
      { guest: "read", addr: va },
      // The first store lets the table be written from then on.
      { guest: "set_pte", va, level: 1, pa: "0x10000", flags: "puad" },
      { guest: "read", addr: va },
      { guest: "set_pte", va, level: 1, value: "0x0" },
      { guest: "write", addr: va },
    ]);
    expect(propertyOf(input)).toBeNull();
    expect(propertyOf(input, NO_DEPARTURES)).toBe("coherence");
  });

  test("with CR0.WP clear, a write to what it remembers as MMIO does not set D", () => {
    const input = document({ mode: "4level", maps: [leaf("0x30000000", "pwua")] }, [
      { guest: "set_cr0", wp: false },
      { guest: "read", addr: va },
      { guest: "write", addr: va },
    ]);
    expect(propertyOf(input)).toBeNull();
    expect(propertyOf(input, NO_DEPARTURES)).toBe("coherence");
  });

  test("an entry that says MMIO is brought in step with the tables, not with the memslots", () => {
    const input = document({ mode: "4level", maps: [leaf("0x20000000", "pwuad")] }, [
      { guest: "write", addr: va },
      { guest: "set_pte", va: "0x8041000", level: 1, pa: "0x10000", flags: "pwuad" },
      { host: "slot_create", slot: 1 },
      { guest: "set_cr3", root: "A" },
      { guest: "write", addr: va, value: "0x77" },
    ]);
    expect(propertyOf(input)).toBeNull();
    expect(propertyOf(input, NO_DEPARTURES)).toBe("memory");
  });

  test("CR4.PSE is no part of the role: 4M pages outlive it", () => {
    const paging = { mode: "32bit", maps: [{ va: "0x8000000", pa: "0x0", len: "4M", page: "4m" }] };
    const input = document(paging, [
      { guest: "read", addr: "0x8010000" },
      { guest: "set_cr4", clear: "0x10" },
    ]);
    // Nobody does so, and so it is let by leaving it out: this is no departure that can be switched on.
    expect(propertyOf(input)).toBe("coherence");
  });
});
