/** `racewalk studies`: lists what can be checked. */
import { studiesJson, studiesText } from "../report/studies-text.ts";
import { builtInIds, builtInStudy } from "../studies/registry.ts";
import { writeJson } from "./json.ts";
import type { Terminal } from "./terminal.ts";

export async function studiesCommand(options: { readonly json?: true }, terminal: Terminal): Promise<number> {
  const studies = await Promise.all(builtInIds().map(builtInStudy));
  if (options.json) writeJson(studiesJson(studies), terminal);
  else terminal.result(studiesText(studies, terminal.paint));
  return 0;
}
