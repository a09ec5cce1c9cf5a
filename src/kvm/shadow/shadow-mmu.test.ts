/** The hash of shadow pages in machine words, against the product that it stands for. */
import fc from "fast-check";
import { expect, test } from "vitest";
import { hash64 } from "./shadow-mmu.ts";

const GOLDEN_RATIO_64 = 0x61c8864680b583ebn;

const hashOf = (value: number, bits: number): number =>
  Number(((BigInt(value) * GOLDEN_RATIO_64) & 0xffff_ffff_ffff_ffffn) >> BigInt(64 - bits));

test("hash_64() is the high bits of the product", () => {
  expect(hash64(1, 12)).toBe(0x61c);
  fc.assert(
    fc.property(fc.maxSafeNat(), fc.integer({ min: 1, max: 32 }), (value, bits) => {
      expect(hash64(value, bits)).toBe(hashOf(value, bits));
    }),
    { numRuns: 2000 },
  );
});
