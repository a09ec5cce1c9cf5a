/** The documents of the repository. */
import { repositoryFiles } from "../house/tree.ts";

/** Markdown files, without those that came with the recordings. */
export function documents(): string[] {
  return repositoryFiles().filter((path) => path.endsWith(".md") && !path.startsWith("recordings/"));
}
