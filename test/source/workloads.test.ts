/** Workloads on Linux 6.12's own source: against its recordings, and against racewalk's MMU. */
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { compareWithRecording, findCases, loadRecording, runWorkload } from "../../src/conform/index.ts";
import type { Paging } from "../../src/kvm/variants.ts";
import { bodyOnKernel, type DiffTarget, diffRandom, type LoadedKernel, loadKernel } from "../../src/source/index.ts";
import { kernelSource } from "./kernel.ts";

const { source, missing } = kernelSource("6.12");
if (missing !== null) console.warn(`test/source: skipped: ${missing}`);
const RECORDINGS = join(import.meta.dirname, "../../recordings");
const BUILD_MS = 900_000;

/** make_spte() forgets that the host may write. */
const NOT_HOST_WRITABLE = `--- a/arch/x86/kvm/mmu/spte.c
+++ b/arch/x86/kvm/mmu/spte.c
@@ -215,5 +215,5 @@
 	if (host_writable)
-		spte |= shadow_host_writable_mask;
+		spte |= 0;
 	else
 		pte_access &= ~ACC_WRITE_MASK;
 
`;

const options = { on: `kernel:${source}`, say: (): void => undefined };

function target({ image }: LoadedKernel, paging: Paging = "npt"): DiffTarget {
  return { image, kernel: "v6.12", paging };
}

describe.skipIf(missing !== null)("on Linux 6.12's own source", () => {
  let linux: LoadedKernel | null = null;

  beforeAll(async () => {
    linux = await loadKernel(options);
  }, BUILD_MS);

  const loaded = (): LoadedKernel => {
    if (linux === null) throw new Error("the kernel is built before the tests");
    return linux;
  };

  test.each(findCases(RECORDINGS))("%s comes out as it was recorded", (directory) => {
    const recording = loadRecording(directory, "v6.12");
    const { workload, initial } = recording;
    for (const each of recording.kernels) {
      const makeBody = bodyOnKernel(loaded().image);
      const run = runWorkload({ workload, initial, kernel: each.kernel, recording: each, makeBody });
      expect(compareWithRecording(recording, each, run)).toMatchObject({ score: 1, firstDivergence: null });
    }
  });

  test.each([
    { mmu: "tdp", paging: "npt", seeds: [1, 2, 4] },
    { mmu: "tdp", paging: "ept", seeds: [501, 506] },
    { mmu: "tdp", paging: "ept-no-ad", seeds: [501, 506] },
    { mmu: "direct", paging: "npt", seeds: [1, 2] },
    { mmu: "shadow", paging: "npt", seeds: [1, 2, 3, 1137] },
  ] as const)("racewalk's MMU does what it does: $mmu $paging", { timeout: 120_000 }, ({ mmu, paging, seeds }) => {
    for (const seed of seeds) {
      const row = diffRandom(seed, { mmu }, target(loaded(), paging));
      expect(row).toMatchObject({ seed, failure: null, firstDivergence: null, score: 1 });
      expect(row.events).toBeGreaterThan(0);
    }
  });

  test("a patch that loses a bit is seen: by the kernel's own check", { timeout: BUILD_MS }, async () => {
    const patch = join(mkdtempSync(join(tmpdir(), "racewalk-")), "a.patch");
    writeFileSync(patch, NOT_HOST_WRITABLE);
    const row = diffRandom(2, { mmu: "tdp" }, target(await loadKernel({ ...options, patch })));
    expect(row.firstDivergence?.expected).toContain("WARN_ON() at arch/x86/kvm/mmu/spte.h");
    expect(row.score).toBeLessThan(1);
  });
});
