/** `racewalk kernel build`: compiles KVM's MMU from the user's own kernel tree. */
import { UsageError } from "../engine/index.ts";
import { buildKernel, cacheFolder, findToolchain, lackingText, openTree } from "../source/index.ts";
import { writeJson } from "./json.ts";
import type { Terminal } from "./terminal.ts";

export interface KernelBuildOptions {
  readonly source: string;
  readonly headers?: string;
  readonly config?: string;
  readonly json?: true;
}

/** @returns 0. @throws UsageError when something is missing, naming the packages that have it */
export async function kernelBuildCommand(options: KernelBuildOptions, terminal: Terminal): Promise<number> {
  const cache = cacheFolder();
  const { lacking } = findToolchain();
  if (lacking.length > 0) {
    if (options.json)
      writeJson({ kernel: null, files: [], cache, missing: lacking.map(({ debian }) => debian) }, terminal);
    throw new UsageError(`kernel build: ${lackingText(lacking)}`);
  }
  const say = (text: string): void => {
    if (terminal.showsProgress) terminal.progress(text);
    else terminal.say(text);
  };
  const tree = openTree(options.source, options.headers, cache, say);
  const built = await buildKernel(tree, { ...(options.config === undefined ? {} : { config: options.config }), say });
  terminal.progress(null);
  if (options.json) writeJson({ kernel: built.kernel, files: built.files, cache: built.image, missing: [] }, terminal);
  else {
    terminal.result(`Linux ${built.kernel}: ${built.files.length} files of ${tree.root}\nimage: ${built.image}\n`);
  }
  return 0;
}
