/** The oracle of coherence: what a guest's accesses may do, by its own tables. */
export { CoherenceOracle, type Departures, KVM_DEPARTURES, NO_DEPARTURES } from "./coherence.ts";
export { checkHardware } from "./hardware.ts";
