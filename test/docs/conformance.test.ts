/** The results that docs/conformance.md states are those that come out. */
import { expect, test } from "vitest";
import { compareWithRecording, loadRecording, runWorkload } from "../../src/conform/index.ts";
import { ROOT, read } from "../house/tree.ts";
import { tableBelow } from "./markdown.ts";

const rows = tableBelow(read("docs/conformance.md"), "Results");

test("results are stated", () => {
  expect(rows.length).toBeGreaterThanOrEqual(5);
});

test.each(rows)("%s: %s, %s", (name, ...stated) => {
  const recording = loadRecording(`${ROOT}recordings/${name}`, undefined);
  const { workload, initial } = recording;
  const found = recording.kernels.map((kernel) => {
    const run = runWorkload({ workload, initial, kernel: kernel.kernel, recording: kernel });
    const { matched, events } = compareWithRecording(recording, kernel, run);
    return `${matched} of ${events}`;
  });
  expect(found).toEqual(stated);
});
