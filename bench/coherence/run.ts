/**
 * Random guests on the shadow MMU under the oracle of coherence, as many as one likes.
 *
 *     node bench/coherence/run.ts --first 0 --count 20000
 *     node bench/coherence/run.ts --seconds 600
 *     node bench/coherence/run.ts --seed 17          one guest, its workload printed
 */
import { parseArgs } from "node:util";
import { failureText, newCampaignTotals, runGuest, shadowCampaign } from "../../test/shadow/campaign.ts";
import { randomGuest } from "../../test/shadow/random-guest.ts";

main();

function main(): void {
  const { values } = parseArgs({
    options: {
      first: { type: "string", default: "0" },
      count: { type: "string", default: "1000" },
      seconds: { type: "string" },
      seed: { type: "string" },
    },
  });
  if (values.seed !== undefined) {
    one(Number(values.seed));
    return;
  }
  const totals = newCampaignTotals();
  const end =
    values.seconds === undefined ? Number.POSITIVE_INFINITY : performance.now() + 1000 * Number(values.seconds);
  const count = values.seconds === undefined ? Number(values.count) : Number.POSITIVE_INFINITY;
  const first = Number(values.first);
  let failures = 0;
  for (let done = 0; done < count && performance.now() < end; done += 10) {
    const failing = shadowCampaign(first + done, Math.min(10, count - done), totals);
    if (failing !== null) {
      failures++;
      console.log(failureText(failing));
      if (failures === 10) break;
    }
    if (done % 1000 === 990) console.error(`${first + done + 10}: ${summary(totals)}`);
  }
  console.log(`${summary(totals)}; ${failures} fail`);
  process.exitCode = failures === 0 ? 0 : 1;
}

function one(seed: number): void {
  const guest = randomGuest(seed);
  const problem = runGuest(guest);
  console.log(problem === null ? JSON.stringify(guest.document, null, 1) : failureText({ guest, problem }));
}

function summary({ sequences, operations, judged, ends }: ReturnType<typeof newCampaignTotals>): string {
  const counts = [...ends].map(([end, count]) => `${end} ${count}`).join(", ");
  return `${sequences} sequences, ${operations} operations, ${judged} accesses and translations judged (${counts})`;
}
