import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

const source = (path: string): string => fileURLToPath(new URL(`src/${path}`, import.meta.url));

export default defineConfig({
  test: {
    include: ["src/**/*.test.ts", "test/**/*.test.ts"],
    testTimeout: 120_000,
    // Tests that import racewalk by name, as a user's do, get these sources.
    alias: [
      { find: /^racewalk$/, replacement: source("index.ts") },
      { find: /^racewalk\/engine$/, replacement: source("engine/index.ts") },
    ],
  },
});
