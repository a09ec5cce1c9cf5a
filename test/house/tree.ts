/** The files of the repository, for tests of the house rules. */
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

export const ROOT = fileURLToPath(new URL("../../", import.meta.url));

/** Paths, relative to the root, of all files that are or would be committed. */
export function repositoryFiles(): string[] {
  const list = execFileSync("git", ["ls-files", "--cached", "--others", "--exclude-standard", "-z"], { cwd: ROOT });
  return [...new Set(list.toString().split("\0"))].filter((path) => path !== "" && existsSync(ROOT + path));
}

export function read(path: string): string {
  return readFileSync(ROOT + path, "utf8");
}
