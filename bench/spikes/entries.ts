/**
 * Spike: how a 64-bit page-table entry is held in memory and in locals.
 *
 * Each form populates a table of 512 entries, clears one bit in each with a compare-exchange, and zaps it, through
 * small functions (isShadowPresent, sptePfn, makeSpte) as the MMU will have them, called from a generator.
 * The decision taken from it is docs/decisions/0002-entries.md. Run: npm run bench:spikes
 */
const N = 512;
const ROUNDS = 400;

// A. bigint in a BigUint64Array
{
  const table = new BigUint64Array(N);
  const PRESENT = 1n << 11n;
  const NX = 1n << 63n;
  const ACCESSED = 1n << 5n;
  const PFN = 0x000ffffffffff000n;
  const makeSpte = (pfn: number, exec: boolean): bigint =>
    PRESENT | ACCESSED | 7n | (exec ? 0n : NX) | (BigInt(pfn) << 12n);
  const isPresent = (s: bigint): boolean => (s & PRESENT) !== 0n;
  const pfnOf = (s: bigint): number => Number((s & PFN) >> 12n);
  const cmpxchg = (i: number, old: bigint, now: bigint): bigint => {
    const cur = table[i]!;
    if (cur === old) table[i] = now;
    return cur;
  };
  function* run(): Generator<number, number, number> {
    let sum = 0;
    for (let i = 0; i < N; i++) table[i] = makeSpte(0x12345 + i, (i & 1) === 0);
    yield 0;
    for (let i = 0; i < N; i++) {
      const old = table[i]!;
      if (!isPresent(old)) continue;
      const now = BigInt.asUintN(64, old & ~ACCESSED);
      if (cmpxchg(i, old, now) !== old) continue;
      sum += pfnOf(now);
    }
    yield 1;
    for (let i = 0; i < N; i++) {
      const old = table[i]!;
      table[i] = NX;
      if (isPresent(old)) sum++;
    }
    return sum;
  }
  time("bigint, BigUint64Array", run);
}

// B. an object { hi, lo } over two Uint32 words
{
  type Entry = { readonly hi: number; readonly lo: number };
  const table = new Uint32Array(N * 2);
  const PRESENT = 1 << 11;
  const ACCESSED = 1 << 5;
  const NX_HI = 0x80000000;
  const entry = (hi: number, lo: number): Entry => ({ hi: hi >>> 0, lo: lo >>> 0 });
  const makeSpte = (pfn: number, exec: boolean): Entry =>
    entry((exec ? 0 : NX_HI) | (pfn / 0x100000), PRESENT | ACCESSED | 7 | (pfn << 12));
  const isPresent = (s: Entry): boolean => (s.lo & PRESENT) !== 0;
  const pfnOf = (s: Entry): number => (s.hi & 0xfffff) * 0x100000 + (s.lo >>> 12);
  const read = (i: number): Entry => entry(table[2 * i + 1]!, table[2 * i]!);
  const write = (i: number, e: Entry): void => {
    table[2 * i] = e.lo;
    table[2 * i + 1] = e.hi;
  };
  const same = (a: Entry, b: Entry): boolean => a.lo === b.lo && a.hi === b.hi;
  const cmpxchg = (i: number, old: Entry, now: Entry): Entry => {
    const cur = read(i);
    if (same(cur, old)) write(i, now);
    return cur;
  };
  const NONPRESENT = entry(NX_HI, 0);
  function* run(): Generator<number, number, number> {
    let sum = 0;
    for (let i = 0; i < N; i++) write(i, makeSpte(0x12345 + i, (i & 1) === 0));
    yield 0;
    for (let i = 0; i < N; i++) {
      const old = read(i);
      if (!isPresent(old)) continue;
      const now = entry(old.hi, old.lo & ~ACCESSED);
      if (!same(cmpxchg(i, old, now), old)) continue;
      sum += pfnOf(now);
    }
    yield 1;
    for (let i = 0; i < N; i++) {
      const old = read(i);
      write(i, NONPRESENT);
      if (isPresent(old)) sum++;
    }
    return sum;
  }
  time("object { hi, lo }, two Uint32", run);
}

// C. a 52-bit-safe number plus the high bits folded: hi and lo as two locals, high half returned in a register
{
  const table = new Uint32Array(N * 2);
  const PRESENT = 1 << 11;
  const ACCESSED = 1 << 5;
  const NX_HI = 0x80000000;
  const reg = { hi: 0 };
  const makeSpte = (pfn: number, exec: boolean): number => {
    reg.hi = ((exec ? 0 : NX_HI) | (pfn / 0x100000)) >>> 0;
    return (PRESENT | ACCESSED | 7 | (pfn << 12)) >>> 0;
  };
  const read = (i: number): number => {
    reg.hi = table[2 * i + 1]!;
    return table[2 * i]!;
  };
  const cmpxchg = (i: number, lo: number, hi: number, nlo: number, nhi: number): boolean => {
    if (table[2 * i] !== lo || table[2 * i + 1] !== hi) return false;
    table[2 * i] = nlo;
    table[2 * i + 1] = nhi;
    return true;
  };
  function* run(): Generator<number, number, number> {
    let sum = 0;
    for (let i = 0; i < N; i++) {
      const lo = makeSpte(0x12345 + i, (i & 1) === 0);
      table[2 * i] = lo;
      table[2 * i + 1] = reg.hi;
    }
    yield 0;
    for (let i = 0; i < N; i++) {
      const lo = read(i);
      const hi = reg.hi;
      if ((lo & PRESENT) === 0) continue;
      const nlo = (lo & ~ACCESSED) >>> 0;
      if (!cmpxchg(i, lo, hi, nlo, hi)) continue;
      sum += (hi & 0xfffff) * 0x100000 + (nlo >>> 12);
    }
    yield 1;
    for (let i = 0; i < N; i++) {
      const lo = read(i);
      table[2 * i] = 0;
      table[2 * i + 1] = NX_HI;
      if ((lo & PRESENT) !== 0) sum++;
    }
    return sum;
  }
  time("two numbers, high half in a register", run);
}

// D. a number that is exact while bits 53..62 are the only ones folded away (hi*2^32+lo as a double): not bijective,
// measured only as the lower bound of what a single-number form could give.
{
  const table = new Float64Array(N);
  const NX = 2 ** 52;
  const makeSpte = (pfn: number, exec: boolean): number => (exec ? 0 : NX) + pfn * 4096 + 0x827;
  const low = (s: number): number => s % 4096;
  function* run(): Generator<number, number, number> {
    let sum = 0;
    for (let i = 0; i < N; i++) table[i] = makeSpte(0x12345 + i, (i & 1) === 0);
    yield 0;
    for (let i = 0; i < N; i++) {
      const old = table[i]!;
      if ((low(old) & 0x800) === 0) continue;
      const now = old - 32;
      if (table[i] === old) table[i] = now;
      sum += Math.floor(now / 4096) % 2 ** 40;
    }
    yield 1;
    for (let i = 0; i < N; i++) {
      const old = table[i]!;
      table[i] = NX;
      if ((low(old) & 0x800) !== 0) sum++;
    }
    return sum;
  }
  time("one double (not bijective: lower bound)", run);
}

function time(name: string, run: () => Generator<number, number, number>): void {
  const once = (): number => {
    const g = run();
    let r = g.next(0);
    while (!r.done) r = g.next(0);
    return r.value;
  };
  for (let i = 0; i < 50; i++) once();
  const samples: number[] = [];
  for (let s = 0; s < 7; s++) {
    const t0 = process.hrtime.bigint();
    for (let i = 0; i < ROUNDS; i++) once();
    samples.push(Number(process.hrtime.bigint() - t0) / (ROUNDS * N));
  }
  samples.sort((a, b) => a - b);
  console.log(`${name.padEnd(44)} ${samples[3]!.toFixed(1).padStart(7)} ns per entry (make + clear A + zap)`);
}
