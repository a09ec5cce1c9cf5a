/**
 * Objects that a compiled kernel allocates and frees for ever, always the same ones: for loops that a state graph looks for. They are made during
 * set-up; which of them are free is a bit for each, and the lowest free one is taken. An object that is not in use is dead, and one that is taken is zero.
 */
import { acquire, Cell, revive, type Steps, UsageError, type World } from "../engine/index.ts";

/** Bits of a word of the map: what a number holds exactly. */
const BITS = 52;
const TWO32 = 2 ** 32;

const always = (): boolean => true;
const takeLowest = (free: number): number => free - lowestBit(free);

export class ObjectPool {
  private readonly world: World;
  private readonly name: string;
  private readonly bytes: number;
  private readonly objects: readonly number[];
  private readonly free: readonly Cell[];

  /** Set-up only. @param make allocates one */
  constructor(world: World, name: string, bytes: number, objects: number, make: () => number) {
    this.world = world;
    this.name = name;
    this.bytes = bytes;
    this.objects = Array.from({ length: objects }, make);
    for (const addr of this.objects) world.setLife(addr, { property: "use-after-free", because: "not allocated" });
    this.free = Array.from({ length: Math.ceil(objects / BITS) }, (_, word) => {
      const free = new Cell<number>(world, world.allocate(8, `free objects of ${name}`), 8, false);
      free.value = 2 ** Math.min(BITS, objects - word * BITS) - 1;
      return free;
    });
  }

  *take(): Steps<number> {
    for (const [word, cell] of this.free.entries()) {
      const free = yield* acquire(cell, always, takeLowest, `allocate ${this.name}`);
      if (free === 0) continue;
      const addr = this.objects[word * BITS + Math.log2(lowestBit(free))] as number;
      yield* revive(this.world, addr);
      this.clear(addr);
      return addr;
    }
    throw new UsageError(
      `all ${this.objects.length} objects of ${this.name} are in use; make the scenario's pools larger`,
    );
  }

  /** One that was freed; what is not of the pool was allocated by set-up, and stays away. */
  *put(addr: number): Steps<void> {
    const index = this.objects.indexOf(addr);
    if (index < 0) return;
    const bit = 2 ** (index % BITS);
    const cell = this.free[Math.floor(index / BITS)] as Cell;
    yield* acquire(cell, always, (free) => free + bit, `free ${this.name}`);
  }

  private clear(addr: number): void {
    const { heap, current } = this.world;
    if (current?.ghost) return;
    for (let at = addr; at < addr + this.bytes; at += 4) if (heap.read(at, 4) !== 0) heap.write(at, 4, 0, 0);
  }
}

function lowestBit(bits: number): number {
  const lo = bits >>> 0;
  if (lo !== 0) return (lo & -lo) >>> 0;
  const hi = Math.floor(bits / TWO32);
  return ((hi & -hi) >>> 0) * TWO32;
}
