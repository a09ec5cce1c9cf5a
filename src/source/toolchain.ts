/** The programs that the build needs: which versions do, how to find them, and what to install when they are missing. */
import { spawnSync } from "node:child_process";

export interface Tool {
  readonly command: string;
  /** Debian's package. */
  readonly debian: string;
  /** Versions that are known to do, both included. */
  readonly from: number;
  readonly to: number;
}

export const TOOLS = {
  clang: { command: "clang", debian: "clang", from: 14, to: 19 },
  llc: { command: "llc", debian: "llvm", from: 14, to: 19 },
  linker: { command: "wasm-ld", debian: "lld", from: 14, to: 19 },
  binaryen: { command: "wasm-opt", debian: "binaryen", from: 108, to: 132 },
} as const satisfies Readonly<Record<string, Tool>>;

export type ToolName = keyof typeof TOOLS;

export interface Toolchain {
  /** The command of each tool. */
  readonly commands: Readonly<Record<ToolName, string>>;
  /** Their versions, for the cache's key. */
  readonly versions: string;
}

/** What is missing or of a wrong version, with the Debian packages that have it. */
export interface Lacking {
  readonly what: string;
  readonly debian: string;
}

/** Looks for every tool. */
export function findToolchain(): { readonly toolchain: Toolchain | null; readonly lacking: readonly Lacking[] } {
  const commands: Partial<Record<ToolName, string>> = {};
  const versions: string[] = [];
  const lacking: Lacking[] = [];
  for (const [name, tool] of Object.entries(TOOLS) as [ToolName, Tool][]) {
    const found = findTool(tool);
    if (found.command === null) {
      lacking.push({ what: found.problem, debian: tool.debian });
      continue;
    }
    commands[name] = found.command;
    versions.push(`${name} ${found.version}`);
  }
  if (lacking.length > 0) return { toolchain: null, lacking };
  return { toolchain: { commands: commands as Record<ToolName, string>, versions: versions.join(", ") }, lacking };
}

type Found =
  | { readonly command: string; readonly version: string }
  | { readonly command: null; readonly problem: string };

/** The plain command, or the one that carries a version in its name (`clang-16`), newest first. */
function findTool({ command, from, to }: Tool): Found {
  const suffixed = Array.from({ length: to - from + 1 }, (_, i) => `${command}-${to - i}`);
  let problem = `${command} ${from} to ${to}`;
  for (const candidate of [command, ...(from < 100 ? suffixed : [])]) {
    const { status, stdout } = spawnSync(candidate, ["--version"], { encoding: "utf8" });
    if (status !== 0) continue;
    const version = /(?:version |LLD |wasm-opt version )(\d+)(?:[.\d]*)/.exec(stdout);
    const major = Number(version?.[1] ?? 0);
    if (major >= from && major <= to) return { command: candidate, version: version?.[0] ?? "" };
    problem = `${command} ${from} to ${to} (${candidate} is ${major})`;
  }
  return { command: null, problem };
}
