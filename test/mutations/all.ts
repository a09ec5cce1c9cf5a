/** All mutations that a study must notice. */
import { LARGE_PAGE_MUTATIONS } from "./large-page-mutations.ts";
import { MUTATIONS, type Mutation } from "./mutations.ts";
import { RMAP_MUTATIONS } from "./rmap-mutations.ts";
import { SCENARIO_MUTATIONS } from "./scenario-mutations.ts";
import { SHADOW_MUTATIONS } from "./shadow-mutations.ts";
import { ZAP_MUTATIONS } from "./zap-mutations.ts";

export const ALL_MUTATIONS: readonly Mutation[] = [
  ...MUTATIONS,
  ...ZAP_MUTATIONS,
  ...RMAP_MUTATIONS,
  ...LARGE_PAGE_MUTATIONS,
  ...SHADOW_MUTATIONS,
  ...SCENARIO_MUTATIONS,
];
