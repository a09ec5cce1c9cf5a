/** `--on kernel:DIR`, `--headers` and `--patch`: options that several commands share. */
import { type LoadedKernel, loadKernel, loadStudyOnKernel } from "../source/index.ts";
import { type LoadedStudy, loadStudy } from "../studies/load.ts";
import type { Terminal } from "./terminal.ts";

export interface OnKernelFlags {
  /** `kernel:DIR`: the study runs on that kernel's own source. */
  readonly on?: string;
  readonly headers?: string;
  readonly patch?: string;
}

/** A study on racewalk's own MMU, or on a kernel. */
export async function loadStudyFor(name: string, flags: OnKernelFlags, terminal: Terminal): Promise<LoadedStudy> {
  const { on, headers, patch } = flags;
  if (on === undefined) return await loadStudy(name);
  const say = (text: string): void => {
    if (terminal.showsProgress) terminal.progress(text);
    else terminal.say(text);
  };
  const given = { ...(headers === undefined ? {} : { headers }), ...(patch === undefined ? {} : { patch }) };
  const loaded = await loadStudyOnKernel(name, { on, ...given, say });
  terminal.progress(null);
  return loaded;
}

/** The kernel that workloads run on; null without --on. */
export async function loadKernelFor(flags: OnKernelFlags, terminal: Terminal): Promise<LoadedKernel | null> {
  const { on, headers, patch } = flags;
  if (on === undefined) return null;
  const say = (text: string): void => {
    if (terminal.showsProgress) terminal.progress(text);
    else terminal.say(text);
  };
  const given = { ...(headers === undefined ? {} : { headers }), ...(patch === undefined ? {} : { patch }) };
  const loaded = await loadKernel({ on, ...given, say });
  terminal.progress(null);
  return loaded;
}

/** The flags as a command line has them, for commands that reports print. */
export function flagWords({ on, headers, patch }: OnKernelFlags): string[] {
  const words = (flag: string, value: string | undefined): string[] => (value === undefined ? [] : [flag, value]);
  return [...words("--on", on), ...words("--headers", headers), ...words("--patch", patch)];
}
