/** Workloads on a compiled kernel. */
import type { MakeBody } from "../conform/index.ts";
import type { Image } from "./image.ts";
import { KernelBody } from "./kernel-body.ts";

/** A kernel for workloads to run on. */
export function bodyOnKernel(image: Image): MakeBody {
  return (setup) => new KernelBody(image, setup);
}

/** The recorded kernel that a version is compared with: 6.1 was not recorded, and is held against 6.12. */
export function recordedKernel(version: string): "v6.12" | "v7.2" {
  const major = Number(/^\d+/.exec(version)?.[0] ?? 6);
  return major >= 7 ? "v7.2" : "v6.12";
}
