/** lazy-large-spte's self-maps on the kernel's own source: a store to a table on the way to itself, which the emulator does not know. */
import { expect, test } from "vitest";
import { changed, kernelSource, verdictsOn } from "./kernel.ts";

/** reexecute_instruction() says yes whatever was written to: Linux before 3.9. */
const RETRIES = changed(
  "arch/x86/kvm/x86.c",
  8623,
  "\treturn !(emulation_type & EMULTYPE_WRITE_PF_TO_SP);",
  "\treturn true;",
);

/** kvm_unprotect_and_retry_on_failure() does not look at what was written to; the place is still remembered. */
const UNPROTECTS = changed("arch/x86/kvm/x86.c", 8440, "\tif (emulation_type & EMULTYPE_WRITE_PF_TO_SP)", "\tif (0)");
/** Neither is the place. */
const RETRIES_TWICE = `${UNPROTECTS}${changed(
  "arch/x86/kvm/mmu/mmu.c",
  6056,
  "\tif (vcpu->arch.last_retry_eip == kvm_rip_read(vcpu) &&",
  "\tif (0 && vcpu->arch.last_retry_eip == kvm_rip_read(vcpu) &&",
)}`;

const SCENARIOS = ["self-map", "seven-steps", "self-map-l1", "no-self-map", "delivery"];
const all = (variant: string, verdict: string, scenarios: readonly string[]): string[] =>
  scenarios.map((scenario) => `${variant} ${scenario} progress ${verdict}`);

for (const { series, retries, unprotects } of [
  { series: "6.1", retries: RETRIES, unprotects: null },
  { series: "6.12", retries: RETRIES_TWICE, unprotects: UNPROTECTS },
] as const) {
  const { source, missing } = kernelSource(series);
  if (missing !== null) console.warn(`test/source: skipped: ${missing}`);

  test.skipIf(missing !== null)(
    `a store that cannot be emulated on Linux ${series}: the run ends; retried whatever it is to, it never does`,
    { timeout: 900_000 },
    async () => {
      const rows = await verdictsOn(source, "lazy-large-spte", retries, SCENARIOS);
      expect(rows.map(({ text }) => text)).toEqual([
        ...all("linux", "holds", SCENARIOS),
        ...all("patched", "fails", ["self-map", "seven-steps"]),
        ...all("patched", "holds", ["self-map-l1", "no-self-map", "delivery"]),
      ]);
      expect(rows[6]?.diagram).toContain("from here on, for ever");
      expect(rows[6]?.diagram).toContain("emulation fails");
    },
  );

  test.skipIf(missing !== null || unprotects === null)(
    `on Linux ${series} one of the two looks is enough`,
    { timeout: 900_000 },
    async () => {
      const rows = await verdictsOn(source, "lazy-large-spte", unprotects ?? "", ["self-map", "seven-steps"]);
      expect(rows.map(({ text }) => text)).toEqual([
        ...all("linux", "holds", ["self-map", "seven-steps"]),
        ...all("patched", "holds", ["self-map", "seven-steps"]),
      ]);
    },
  );
}
