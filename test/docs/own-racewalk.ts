/** Makes "racewalk" and "racewalk/engine" mean the sources of this repository: `node --import THIS program.ts`. */
import { registerHooks } from "node:module";

const OWN: Readonly<Record<string, string>> = {
  racewalk: new URL("../../src/index.ts", import.meta.url).href,
  "racewalk/engine": new URL("../../src/engine/index.ts", import.meta.url).href,
};

registerHooks({ resolve: (specifier, context, next) => next(OWN[specifier] ?? specifier, context) });
