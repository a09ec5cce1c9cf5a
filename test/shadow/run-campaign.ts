/** Runs guests until one fails, and prints what failed as JSON: for a tree of sources that was changed. Arguments: first seed, how many. */
import { newCampaignTotals, runGuest } from "./campaign.ts";
import { directedGuest } from "./directed-guests.ts";
import { randomGuest } from "./random-guest.ts";

const [first = 0, count = 0] = process.argv.slice(2).map(Number);
const totals = newCampaignTotals();
let found: unknown = null;
for (let seed = first; seed < first + count && found === null; seed++)
  found = runGuest(seed < 0 ? directedGuest(seed) : randomGuest(seed), totals);
process.stdout.write(JSON.stringify({ problem: found, sequences: totals.sequences }));
