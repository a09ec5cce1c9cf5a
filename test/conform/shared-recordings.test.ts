/**
 * Every recording that is beside the checkout, against the model. A user's clone has none: then this says so and is skipped.
 */
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { compareWithRecording, loadRecording, runWorkload } from "../../src/conform/index.ts";

const FOLDER = "../shared/traces";
const isHere = existsSync(FOLDER);
if (!isHere) console.log(`${FOLDER} is not there: the model is held only against the recordings in the repository`);

const cases = isHere
  ? readdirSync(FOLDER, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => entry.name)
      .sort()
  : [];

describe.skipIf(!isHere)("every recording", () => {
  test.each(cases)("%s", (name) => {
    const recording = loadRecording(join(FOLDER, name));
    const { workload, initial } = recording;
    for (const each of recording.kernels) {
      const run = runWorkload({ workload, initial, kernel: each.kernel, recording: each });
      const { score, firstDivergence } = compareWithRecording(recording, each, run);
      expect({ kernel: each.kernel, score, firstDivergence }).toEqual({
        kernel: each.kernel,
        score: 1,
        firstDivergence: null,
      });
    }
  });
});
