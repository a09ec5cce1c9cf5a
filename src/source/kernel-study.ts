/** What a study on a compiled kernel is made of; the studies themselves are beside this file. */
import type { MemoryModel, Program } from "../engine/index.ts";
import type { Image } from "./image.ts";
import { type KvmSceneOptions, kvmScene } from "./kvm-scene.ts";

export interface KernelScenario {
  readonly name: string;
  readonly property: string;
  readonly models: readonly MemoryModel[];
  readonly strategy: "dpor" | "graph";
  readonly expected: "holds" | "fails";
  readonly because: string;
  /** @param racing places whose plain accesses race in this scenario, and so count as marked */
  program(image: Image, racing: readonly number[]): Program;
}

export interface KernelStudy {
  readonly title: string;
  readonly source: string;
  /** What the kernel's design is called in the study. */
  readonly variant: string;
  readonly scenarios: readonly KernelScenario[];
}

/** Whether the kernel is of that series or a later one. */
export function isSince({ description }: Image, major: number, minor: number): boolean {
  const [a = 0, b = 0] = description.kernel.split(".").map(Number);
  return a > major || (a === major && b >= minor);
}

/** A scenario of a VM, explored completely under both memory models unless told otherwise. */
export function kvmScenario(
  name: string,
  property: string,
  because: string,
  options: KvmSceneOptions | ((image: Image) => KvmSceneOptions),
  other: Partial<Pick<KernelScenario, "models" | "strategy" | "expected">> = {},
): KernelScenario {
  return {
    ...{ name, property, because, models: ["sc", "tso"], strategy: "dpor", expected: "holds", ...other },
    program: (image, racing) => kvmScene(image, racing, name, typeof options === "function" ? options(image) : options),
  };
}
