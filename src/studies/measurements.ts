/** The measurements that come with racewalk, by study. A new one is one line here. */
import { UsageError } from "../engine/index.ts";
import type { Measurement } from "./measurement.ts";

interface MeasurementModule {
  readonly measurement: Measurement;
}

const BUILT_IN: Readonly<Record<string, () => Promise<MeasurementModule>>> = {
  "gpc-refresh": () => import("./gpc-refresh.measure.ts"),
  "lazy-large-spte": () => import("./lazy-large-spte.measure.ts"),
  "lockless-aging": () => import("./lockless-aging.measure.ts"),
  "lockless-walk": () => import("./lockless-walk.measure.ts"),
  "root-zap": () => import("./root-zap.measure.ts"),
};

/** @throws UsageError, one line that lists what exists, when there is none for the study */
export async function builtInMeasurement(study: string): Promise<Measurement> {
  const load = Object.hasOwn(BUILT_IN, study) ? BUILT_IN[study] : undefined;
  if (load !== undefined) return (await load()).measurement;
  throw new UsageError(`${study}: nothing is measured there; name one of ${Object.keys(BUILT_IN).sort().join(", ")}`);
}
