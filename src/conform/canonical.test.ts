import { describe, expect, test } from "vitest";
import { type CanonicalContext, canonicalEvent, canonicalEvents } from "./canonical.ts";
import type { EventLine } from "./run.ts";

const CONTEXT: CanonicalContext = {
  layout: { places: [{ memory: 3, hva: 0x7f00_0000_0000, size: 0x40_0000 }], slotsMade: 2 },
  kernel: "v6.12",
  generationBase: 4,
};

const line = (event: string, text: string): EventLine => ({ task: "vcpu0", event, text });

function form(event: string, text: string, kernel = "v6.12"): readonly unknown[] | null {
  const canonical = canonicalEvent(line(event, text), { ...CONTEXT, kernel });
  return canonical === null
    ? null
    : [canonical.template.slice(event.length + 2), ...canonical.frames.map((frame) => frame.toString(16))];
}

describe("the canonical form of an event", () => {
  const cases: readonly (readonly [string, string, readonly unknown[] | null])[] = [
    // Frames: of a leaf, of a table, of the entry's place.
    [
      "kvm_mmu_set_spte",
      "gfn 40010 spte 23162e67 (rwxu) level 1 at 24f0080",
      ["gfn 40010 spte @|e67 (rwxu) level 1 at @+80", "23162", "24f0"],
    ],
    [
      "kvm_mmu_set_spte",
      "gfn 200 spte 8000000006400ee7 (rw-u) level 2 at 7645008",
      ["gfn 200 spte @|8000000000000ee7 (rw-u) level 2 at @+8", "6400", "7645"],
    ],
    [
      "kvm_tdp_mmu_spte_changed",
      "as id 0 gfn 0 level 4 old_spte 8000000000000000 new_spte 103af9827",
      ["as id 0 gfn 0 level 4 old_spte 8000000000000000 new_spte @|827", "103af9"],
    ],
    [
      "kvm_tdp_mmu_spte_changed",
      "as id 1 gfn a level 1 old_spte 5ddbe67 new_spte 80000000000005a0",
      ["as id 1 gfn a level 1 old_spte @|e67 new_spte 80000000000005a0", "5ddb"],
    ],
    ["kvm_mmu_spte_requested", "gfn 40010 pfn 23162 level 1 access f", ["gfn 40010 pfn @ level 1 access f", "23162"]],
    ["kvm_mmu_spte_requested", "gfn 10000 pfn 8000000000000000 level 1", ["gfn 10000 pfn 8000000000000000 level 1"]],
    [
      "kvm_mmu_split_huge_page",
      "gfn 80000 spte 40000ee5 level 3 errno 0",
      ["gfn 80000 spte @|ee5 level 3 errno 0", "40000"],
    ],
    // Pointers are hashed.
    [
      "fast_page_fault",
      "vcpu 0 gva 100000 error_code P|W|U|0x100000000 sptep 0000000047a5975b old 0x4193a825 new 4193ae27 spurious 0 fixed 1",
      [
        "vcpu 0 gva 100000 error_code P|W|U|0x100000000 sptep * old @|825 new @|e27 spurious 0 fixed 1",
        "4193a",
        "4193a",
      ],
    ],
    [
      "fast_page_fault",
      "vcpu 0 gva 0 error_code P|W sptep (null) old 0x0 new 8000000000000000 spurious 0 fixed 0",
      ["vcpu 0 gva 0 error_code P|W sptep * old 0 new 8000000000000000 spurious 0 fixed 0"],
    ],
    // Generations count from the end of the set-up, here 4.
    ["mark_mmio_spte", "sptep:00000000fe18727a gfn 10000 access 7 gen c", ["sptep:* gfn 10000 access 7 gen +8"]],
    [
      "check_mmio_spte",
      "spte 8000010000037 kvm_gen c spte-gen 6 valid 0",
      ["spte mmio(gfn 10000 bits 8000000000007 gen +2) kvm_gen +8 spte-gen +2 valid 0"],
    ],
    [
      "kvm_tdp_mmu_spte_changed",
      "as id 0 gfn 10000 level 1 old_spte 8000000000000000 new_spte 8000010000027",
      ["as id 0 gfn 10000 level 1 old_spte 8000000000000000 new_spte mmio(gfn 10000 bits 8000000000007 gen +0)"],
    ],
    // Host addresses, in and out of memory.
    [
      "kvm_unmap_hva_range",
      "mmu notifier unmap range: 0x007f0000100000 -- 0x007f0000104000",
      ["mmu notifier unmap range: mem3+100000 len 4000"],
    ],
    [
      "kvm_unmap_hva_range",
      "mmu notifier unmap range: 0x007effffff0000 -- 0x007f0000001000",
      ["mmu notifier unmap range: mem3+0 len 1000"],
    ],
    ["kvm_unmap_hva_range", "mmu notifier unmap range: 0x007e0000000000 -- 0x007e0000004000", null],
    [
      "kvm_test_age_hva",
      "mmu notifier test age hva: 0x007f0000300000",
      ["mmu notifier test age hva: mem3+300000 len 1"],
    ],
    // Not tracepoints.
    ["tracing_mark_write", "op 0 end", null],
    ["try_unsync", "(mmu_try_to_unsync_pages+0x4/0x310 [kvm]) gfn=0x100", null],
    // Left as they are, but for a blank at the end.
    ["kvm_mmu_walker_error", "pferr 0 ", ["pferr 0"]],
    ["kvm_mmu_paging_element", "pte 40011027 level 4", ["pte 40011027 level 4"]],
    ["vcpu_match_mmio", "gva 0x10000000 gpa 0x10000000 Read GVA", ["gva 0x10000000 gpa 0x10000000 Read GVA"]],
    // A text of another form is compared as it is.
    ["kvm_mmu_set_spte", "something else", ["something else"]],
  ];

  test.each(cases)("%s: %s", (event, text, expected) => {
    expect(form(event, text)).toEqual(expected);
  });

  test("decodes generations as each kernel encodes them", () => {
    // Generation 0x82 has a bit above the low part of 7.2, and none above that of 6.12.
    expect(form("check_mmio_spte", "spte 8000010000417 kvm_gen 82 spte-gen 82 valid 1")?.[0]).toContain(
      "gen +7e) kvm_gen +7e",
    );
    expect(form("check_mmio_spte", "spte 18000010000017 kvm_gen 82 spte-gen 82 valid 1", "v7.2")?.[0]).toContain(
      "gen +7e) kvm_gen +7e",
    );
  });

  test("leaves out exits for interrupts of the host, with the entry that follows", () => {
    const exit = (reason: string) => line("kvm_exit", `vcpu 0 reason ${reason} rip 0x40000200 info1 0x0`);
    const entry = line("kvm_entry", "vcpu 0, rip 0x40000200");
    const events = canonicalEvents([entry, exit("interrupt"), entry, exit("npf"), entry], CONTEXT);
    expect(events.map(({ source }) => source.text)).toEqual([entry.text, exit("npf").text, entry.text]);
  });

  test("leaves out the second delivery of an exception that an interrupt cut short", () => {
    const injected = line("kvm_inj_exception", "#PF (0x3)");
    const again = line("kvm_inj_exception", "#PF (0x3) [reinjected]");
    const set = line("kvm_mmu_set_spte", "gfn 40003 spte 4f20de67 (rwxu) level 1 at 5e0c018");
    const texts = (lines: readonly EventLine[]) => canonicalEvents(lines, CONTEXT).map(({ source }) => source.text);
    expect(texts([injected, again, set, again, again])).toEqual([injected.text, set.text, again.text]);
  });
});
