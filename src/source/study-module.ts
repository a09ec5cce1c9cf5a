/**
 * A study on a compiled kernel, as a module that worker threads import: what it is of stands in the module's own address.
 *
 *     .../source/study-module.ts?study=gpc-refresh&bodies=[{"variant": ..., "image": folder, ...}]
 */
import { UsageError } from "../engine/index.ts";
import { loadImage } from "./image.ts";
import { kernelStudy, type RacingPlaces, studyOn } from "./studies.ts";

/** A body in a form that a worker can be told. */
export interface BodyDescription {
  readonly variant: string;
  readonly title: string;
  /** Folder of the image. */
  readonly image: string;
  readonly racing: RacingPlaces;
}

export function studyModuleUrl(study: string, bodies: readonly BodyDescription[]): string {
  const url = new URL(
    `./study-module${import.meta.url.slice(import.meta.url.lastIndexOf(".")).replace(/\?.*/, "")}`,
    import.meta.url,
  );
  url.search = new URLSearchParams({ study, bodies: JSON.stringify(bodies) }).toString();
  return url.href;
}

const parameters = new URL(import.meta.url).searchParams;
const id = parameters.get("study");
const definition = id === null ? null : kernelStudy(id);
const bodies = JSON.parse(parameters.get("bodies") ?? "[]") as readonly BodyDescription[];
if (id !== null && definition === null) throw new UsageError(`${id}: is no study that runs on a kernel`);

export default id === null || definition === null
  ? null
  : studyOn(
      id,
      definition,
      bodies.map(({ image, ...body }) => ({ ...body, image: loadImage(image) })),
    );
