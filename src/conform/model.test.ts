import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { compareWithRecording } from "./compare.ts";
import { runWorkload } from "./model.ts";
import { type KernelRecording, loadRecording, type Recording } from "./recording.ts";

const FOLDER = "recordings";
const cases = readdirSync(FOLDER).filter((name) => statSync(join(FOLDER, name)).isDirectory());

function recorded(recording: Recording): [string, KernelRecording][] {
  return recording.kernels.map((kernel) => [kernel.kernel, kernel]);
}

describe.each(cases)("%s", (name) => {
  const recording = loadRecording(join(FOLDER, name));
  const { workload, initial } = recording;

  test.each(recorded(recording))("the model of %s does what real KVM did", (kernel, each) => {
    const run = runWorkload({ workload, initial, kernel, recording: each });
    expect(run.notModelled).toEqual([]);
    expect(compareWithRecording(recording, each, run)).toMatchObject({ score: 1, firstDivergence: null });
  });
});

test("the model of one kernel is not taken for the other", () => {
  const recording = loadRecording(join(FOLDER, "tdp-touch-4k"));
  const { workload, initial } = recording;
  const each = recording.kernels.find(({ kernel }) => kernel === "v6.12") as KernelRecording;
  const run = runWorkload({ workload, initial, kernel: "v7.2", recording: each });
  expect(compareWithRecording(recording, each, run).score).toBeLessThan(1);
});

test("a workload also runs without a recording, with the modelled host", () => {
  const recording = loadRecording(join(FOLDER, "tdp-touch-4k"));
  const { workload, initial } = recording;
  const run = runWorkload({ workload, initial, kernel: "v7.2", recording: null });
  const last = recording.kernels.find(({ kernel }) => kernel === "v7.2")?.operations.at(-1);
  expect(run.operations.at(-1)?.stats.vm["pages_4k"]).toBe(last?.stats.vm["pages_4k"]);
});
