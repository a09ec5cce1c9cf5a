/** The one JSON document on standard output. */
import type { Terminal } from "./terminal.ts";

export function writeJson(document: object, terminal: Terminal): void {
  terminal.result(`${JSON.stringify(document, null, 2)}\n`);
}
