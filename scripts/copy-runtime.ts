/** Part of the build: what the kernel body is compiled from is C, which the compiler of TypeScript leaves behind. */
import { cpSync } from "node:fs";

cpSync("src/source/runtime", "dist/source/runtime", { recursive: true });
