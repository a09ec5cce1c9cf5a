/** Which tables of an MMU are allocated at a moment. */
import type { World } from "../engine/index.ts";
import { PAGE_SIZE } from "../machine/index.ts";

/**
 * Addresses of the tables that are allocated now. For oracles.
 * @param byTable by page of memory, the address of what KVM knows of the table there; 0 for none
 * @param tableOf the table that such a description says is its own
 */
export function liveTables(world: World, byTable: Uint32Array, tableOf: (description: number) => number): number[] {
  const live: number[] = [];
  for (const [page, description] of byTable.entries()) {
    if (description === 0) continue;
    const table = page * PAGE_SIZE;
    // Tables of other executions are known too; only a description of this one says itself that the table is its own.
    if (world.deathOf(table) === null && tableOf(description) === table) live.push(table);
  }
  return live;
}
