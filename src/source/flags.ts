/** How the kernel's files are compiled: which ones, with which flags and include folders. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { KernelTree } from "./tree.ts";

/** The run-time's own sources and headers. */
export const RUNTIME = fileURLToPath(new URL("./runtime/", import.meta.url));

/** One object file: a file of the kernel, or one of the run-time that is compiled as if it were one. */
export interface Unit {
  readonly name: string;
  readonly path: string;
  /** The file of the kernel in it; null for one that is the run-time's alone. */
  readonly kernelFile: string | null;
}

/** Compiled as they are. Those that some versions do not have are left out there. */
const FILES = [
  "virt/kvm/pfncache.c",
  "virt/kvm/dirty_ring.c",
  "virt/kvm/async_pf.c",
  "arch/x86/kvm/mmu/tdp_mmu.c",
  "arch/x86/kvm/mmu/tdp_iter.c",
  "arch/x86/kvm/mmu/spte.c",
  "arch/x86/kvm/mmu/page_track.c",
  "arch/x86/kvm/mtrr.c",
  "arch/x86/kvm/regs.c",
  "lib/rbtree.c",
  "lib/find_bit.c",
  "lib/interval_tree.c",
  "lib/xarray.c",
  "lib/radix-tree.c",
  "lib/bitmap.c",
];

/** Compiled inside a file of the run-time, which reaches their static functions. */
const INSIDE: Readonly<Record<string, string>> = {
  kvm_main: "virt/kvm/kvm_main.c",
  mmu: "arch/x86/kvm/mmu/mmu.c",
  x86: "arch/x86/kvm/x86.c",
};
const OWN = ["boot", "gpc", "emulate"];

export function unitsOf(tree: KernelTree): Unit[] {
  const files = FILES.filter((file) => existsSync(join(tree.root, file)));
  return [
    ...files.map((file) => ({ name: file.replace(/\W/g, "_"), path: join(tree.root, file), kernelFile: file })),
    ...Object.entries(INSIDE).map(([name, kernelFile]) => ({
      name: `rw_${name}`,
      path: join(RUNTIME, `${name}.c`),
      kernelFile,
    })),
    ...OWN.map((name) => ({ name: `rw_${name}`, path: join(RUNTIME, `${name}.c`), kernelFile: null })),
  ];
}

/** As the kernel's own Makefiles have it, without vectors and what needs the assembler; debug information is for names and lines only. */
const CODE = [
  "--target=x86_64-linux-gnu",
  "-nostdinc",
  "-std=gnu11",
  "-O2",
  ..."-mno-sse -mno-mmx -mno-sse2 -mno-3dnow -mno-avx -mno-80387 -mcmodel=kernel".split(" "),
  ..."-fno-vectorize -fno-slp-vectorize -fno-unroll-loops -fno-jump-tables -fno-stack-protector -fno-pie".split(" "),
  ..."-fno-strict-aliasing -fno-common -fshort-wchar -fno-delete-null-pointer-checks -fno-strict-overflow".split(" "),
  ..."-funsigned-char -g -w -S -emit-llvm".split(" "),
];

/** @param config folder with a generated/autoconf.h that goes before the one of the headers; null for none */
export function frontEndFlags(tree: KernelTree, config: string | null): string[] {
  const { root, headers } = tree;
  const generated = [...(config === null ? [] : [config]), ...includes(headers)];
  const common = join(
    headers,
    "..",
    `${headers
      .split("/")
      .at(-1)
      ?.replace(/-amd64$/, "")}-common`,
  );
  const folders = [
    join(RUNTIME, "include"),
    join(root, "arch/x86/include"),
    ...generated.filter((folder) => !folder.endsWith("uapi")),
    join(root, "include"),
    ...(existsSync(common) ? [join(common, "arch/x86/include/generated")] : []),
    join(root, "arch/x86/include/uapi"),
    ...generated.filter((folder) => folder.endsWith("uapi")),
    join(root, "include/uapi"),
    join(root, "virt/kvm"),
    join(root, "arch/x86/kvm"),
    join(root, "arch/x86/kvm/mmu"),
    root,
    RUNTIME,
  ];
  const forced = ["include/linux/compiler-version.h", "include/linux/kconfig.h"].map((file) => join(root, file));
  const headersFirst = [...forced, join(RUNTIME, "config.h"), join(root, "include/linux/compiler_types.h")];
  return [
    ...CODE,
    ...folders.filter((folder) => existsSync(folder)).map((folder) => `-I${folder}`),
    ...headersFirst.flatMap((file) => ["-include", file]),
    ...["-D__KERNEL__", "-DMODULE", "-DCC_USING_FENTRY", '-DKBUILD_MODNAME="kvm"', '-DKBUILD_BASENAME="kvm"'],
    '-DKBUILD_MODFILE="kvm"',
  ];
}

function includes(headers: string): string[] {
  return ["arch/x86/include/generated", "include", "arch/x86/include/generated/uapi", "include/generated/uapi"].map(
    (folder) => join(headers, folder),
  );
}
