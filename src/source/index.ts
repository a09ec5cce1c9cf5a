/** Linux's own source as a body: building it, and studies on it. */
export { buildKernel, cacheFolder, lackingText } from "./build.ts";
export { type DiffRow, type DiffTarget, diffRandom, diffWorkload, minimiseDivergence } from "./diff.ts";
export { type LoadedKernel, loadKernel, loadStudyOnKernel } from "./on-kernel.ts";
export { findToolchain } from "./toolchain.ts";
export { openTree } from "./tree.ts";
export { bodyOnKernel, recordedKernel } from "./workloads.ts";
