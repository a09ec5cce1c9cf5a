/**
 * Isolation: nobody touches a host page through a mapping of it after the host mm was told that it may free it (invalidate_range_start()
 * has returned for it), until the host maps it again.
 *
 * The frames themselves remember (kernel/mm/page.ts): any access to a revoked or freed frame's bytes is a failure of the property
 * "isolation". Here is what counts as a touch besides a load or a store of the data.
 */
import { Cell, load, type Steps, type World } from "../engine/index.ts";
import { type Pfn, pfnToHpa } from "../machine/index.ts";

/** A mapping of the frame becomes usable: from now on somebody may touch it, so by now it must be allowed. */
export function* mappingPublished(world: World, frame: Pfn): Steps<void> {
  yield* load(new Cell<number>(world, pfnToHpa(frame), 8, false), "the mapping becomes usable");
}
