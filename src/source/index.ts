/** Linux's own source as a body: building it, and studies on it. */
export { buildKernel, cacheFolder, lackingText } from "./build.ts";
export { loadStudyOnKernel } from "./on-kernel.ts";
export { findToolchain } from "./toolchain.ts";
export { openTree } from "./tree.ts";
