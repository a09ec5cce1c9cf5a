/**
 * KVM's lockless walk of page tables against a zap: walk_shadow_page_lockless_begin() against kvm_flush_remote_tlbs() and
 * kvm_mmu_commit_zap_page(), with nothing else around.
 *
 *     walker                                    zapper
 *     mode = READING                            spte[i] = 0, for each i
 *     smp_mb()                   <- optional    smp_mb()
 *     for each i: if spte[i] then read page i   wait until mode != READING (the IPI that KVM sends it)
 *     mode = OUTSIDE                            free each page
 *
 * Without the walker's barrier the store to mode may still be in its store buffer when it reads the first spte: the zapper does not see it
 * and frees the page under it. Under SC nothing happens.
 */
import {
  awaitUntil,
  type Cell,
  cell,
  cells,
  fence,
  load,
  program,
  retire,
  store,
  type World,
} from "../../src/engine/index.ts";
import { at, type Benchmark, repeat, SMALL, same } from "./benchmark.ts";

const OUTSIDE_GUEST_MODE = 0;
const READING_SHADOW_PAGE_TABLES = 3;

interface State {
  readonly world: World;
  readonly modes: readonly Cell[];
  readonly sptes: readonly Cell[];
  readonly pages: readonly Cell[];
}

/** @param fenced whether the walker has its barrier */
export function walkzap({ pages = 1, walkers = 1, fenced }: { pages?: number; walkers?: number; fenced: boolean }) {
  return program<State>({
    name: "walkzap",
    memory: SMALL,
    setup: (world) => {
      const state = {
        world,
        modes: cells(world, "vcpu->mode", walkers),
        sptes: cells(world, "sptep", pages),
        pages: Array.from({ length: pages }, (_, i) => cell(world, `page${i}`, i + 1)),
      };
      for (const page of state.pages) world.makeMortal(page.addr);
      for (const [i, spte] of state.sptes.entries()) spte.value = at(state.pages, i).addr;
      return state;
    },
    tasks: {
      ...repeat("walk", walkers, function* walkLockless({ world, modes, sptes, pages: all }: State, i) {
        const mode = at(modes, i);
        yield* store(mode, READING_SHADOW_PAGE_TABLES);
        if (fenced) yield* fence(world);
        for (const [k, spte] of sptes.entries()) {
          if ((yield* load(spte)) !== 0) yield* load(at(all, k));
        }
        yield* store(mode, OUTSIDE_GUEST_MODE);
      }),
      *zap({ world, modes, sptes, pages: all }) {
        for (const spte of sptes) yield* store(spte, 0);
        yield* fence(world);
        for (const mode of modes) yield* awaitUntil(mode, (value) => value !== READING_SHADOW_PAGE_TABLES);
        for (const page of all) yield* retire(world, page.addr, "freed");
      },
    },
  });
}

export const WALKZAP: readonly Benchmark[] = [
  {
    name: "walkzap",
    make: (pages = 1, walkers = 1) => walkzap({ pages, walkers, fenced: true }),
    rows: same([[1, 1], 3], [[2, 1], 5], [[5, 1], 33], [[10, 1], 1025], [[2, 2], 25], [[5, 2], 1089], [[8, 2], 66_049]),
    count: (_, pages = 1, walkers = 1) => (2 ** pages + 1) ** walkers,
  },
];
