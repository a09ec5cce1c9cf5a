/** A seeded generator of random numbers (xorshift128, seeded by splitmix32). The same seed gives the same numbers anywhere. */
export class Random {
  private readonly state = new Uint32Array(4);

  /** @param seed any integer; only its low 32 bits count */
  constructor(seed: number) {
    let z = seed >>> 0;
    for (let i = 0; i < 4; i++) {
      z = (z + 0x9e3779b9) >>> 0;
      let x = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
      x = Math.imul(x ^ (x >>> 15), 0x735a2d97);
      this.state[i] = x ^ (x >>> 15) || 1;
    }
  }

  /** 32 random bits. */
  next(): number {
    const [a, b, c, d] = this.state as unknown as [number, number, number, number];
    let t = d ^ (d << 11);
    t ^= t >>> 8;
    t ^= a ^ (a >>> 19);
    this.state[3] = c;
    this.state[2] = b;
    this.state[1] = a;
    this.state[0] = t;
    return t >>> 0;
  }

  /** A whole number from 0 to `n - 1`. */
  below(n: number): number {
    return Math.floor((this.next() / 0x1_0000_0000) * n);
  }
}
