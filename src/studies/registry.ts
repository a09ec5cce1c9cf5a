/**
 * The studies that come with racewalk, by id. A new one is one line here.
 */
import { UsageError } from "../engine/index.ts";
import type { Study } from "./study.ts";

interface StudyModule {
  readonly default: Study;
}

/** Imported when asked for: a study of the whole MMU takes its time to load. */
const BUILT_IN: Readonly<Record<string, () => Promise<StudyModule>>> = {
  aging: () => import("./aging.ts"),
  "bugs-gpc": () => import("./bugs-gpc.ts"),
  "bugs-notifier": () => import("./bugs-notifier.ts"),
  "bugs-ordering": () => import("./bugs-ordering.ts"),
  "bugs-dirty": () => import("./bugs-dirty.ts"),
  "bugs-flush": () => import("./bugs-flush.ts"),
  "bugs-lifetime": () => import("./bugs-lifetime.ts"),
  "bugs-shadow": () => import("./bugs-shadow.ts"),
  "bugs-translation": () => import("./bugs-translation.ts"),
  "bugs-progress": () => import("./bugs-progress.ts"),
  "dirty-log": () => import("./dirty-log.ts"),
  "efer-nx": () => import("./efer-nx.ts"),
  "gpc-refresh": () => import("./gpc-refresh.ts"),
  "lockless-aging": () => import("./lockless-aging.ts"),
  "lazy-large-spte": () => import("./lazy-large-spte.ts"),
  "lockless-walk": () => import("./lockless-walk.ts"),
  "host-mm": () => import("./host-mm.ts"),
  "huge-pages": () => import("./huge-pages.ts"),
  "memslot-delete": () => import("./memslot-delete.ts"),
  "prefault-delete": () => import("./prefault-delete.ts"),
  "root-zap": () => import("./root-zap.ts"),
  "root-invalidate": () => import("./root-invalidate.ts"),
  "shadow-fault": () => import("./shadow-fault.ts"),
  "shadow-protect": () => import("./shadow-protect.ts"),
  "shadow-write": () => import("./shadow-write.ts"),
  "shadow-zap": () => import("./shadow-zap.ts"),
  "shadow-sync": () => import("./shadow-sync.ts"),
  "tdp-fault": () => import("./tdp-fault.ts"),
  "zap-yield": () => import("./zap-yield.ts"),
};

/** The ids, sorted. */
export function builtInIds(): string[] {
  return Object.keys(BUILT_IN).sort();
}

export function isBuiltIn(id: string): boolean {
  return Object.hasOwn(BUILT_IN, id);
}

/** @throws UsageError, one line that lists what exists, when there is no such study */
export async function builtInStudy(id: string): Promise<Study> {
  const load = isBuiltIn(id) ? BUILT_IN[id] : undefined;
  if (load !== undefined) return (await load()).default;
  throw new UsageError(
    `${id}: no such study; name one of ${builtInIds().join(", ")}, or the path of a study file, which must end in .ts`,
  );
}
