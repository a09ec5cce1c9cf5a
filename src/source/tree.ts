/**
 * A kernel source tree, and the configuration and generated headers that go with it.
 *
 * The tree is the user's: Debian's tarball, that tarball unpacked, or a git checkout. What configuration makes (autoconf.h, asm-offsets.h, the
 * generated asm/ headers) comes from a tree that was configured, or from Debian's linux-headers packages: one with what depends on the flavour, and
 * one with what is common.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, realpathSync, renameSync, rmSync, statSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { UsageError } from "../engine/index.ts";

export interface KernelTree {
  readonly root: string;
  /** Folders with what configuration generates; the tree itself if it was configured. */
  readonly headers: string;
  /** 6.1.192 */
  readonly version: string;
}

/** What is needed of a tree: the rest stays in the tarball. */
const MEMBERS = ["virt", "arch/x86", "include", "lib", "Makefile"];

/** @param cache where a tarball is unpacked */
export function openTree(
  source: string,
  headers: string | undefined,
  cache: string,
  say: (text: string) => void,
): KernelTree {
  const at = resolve(source);
  if (!existsSync(at))
    throw new UsageError(`${source}: no such file or folder; name a kernel tree or Debian's linux-source-*.tar.xz`);
  const root = statSync(at).isDirectory() ? realpathSync(at) : unpack(at, cache, say);
  const version = versionOf(root);
  if (version === null || !existsSync(join(root, "virt/kvm/kvm_main.c"))) {
    throw new UsageError(
      `${source}: is no kernel source tree (no Makefile with a version, or no virt/kvm/kvm_main.c); name its top folder`,
    );
  }
  return { root, headers: findHeaders(root, version, headers), version };
}

function unpack(tarball: string, cache: string, say: (text: string) => void): string {
  const { size, mtimeMs } = statSync(tarball);
  const name = basename(tarball).replace(/\.tar(\.\w+)?$/, "");
  const into = join(cache, "trees", `${name}-${size.toString(36)}-${Math.floor(mtimeMs).toString(36)}`);
  if (existsSync(into)) return join(into, readdirSync(into)[0] ?? "");
  say(`unpacking ${basename(tarball)}`);
  const part = `${into}.part${process.pid}`;
  mkdirSync(part, { recursive: true });
  const members = MEMBERS.map((member) => `*/${member}`);
  const { status, stderr } = spawnSync(
    "tar",
    ["xf", tarball, "-C", part, "--no-same-owner", "--wildcards", ...members],
    {
      encoding: "utf8",
    },
  );
  if (status !== 0) {
    rmSync(part, { recursive: true, force: true });
    throw new UsageError(
      `${tarball}: cannot be unpacked (${stderr.trim().split("\n")[0] ?? ""}); name a linux-source-*.tar.xz, or unpack it`,
    );
  }
  renameSync(part, into);
  return join(into, readdirSync(into)[0] ?? "");
}

function versionOf(root: string): string | null {
  const makefile = join(root, "Makefile");
  if (!existsSync(makefile)) return null;
  const text = readFileSync(makefile, "utf8");
  const number = (name: string): string | undefined => new RegExp(`^${name} = (\\d+)$`, "m").exec(text)?.[1];
  const [version, patchlevel, sublevel] = [number("VERSION"), number("PATCHLEVEL"), number("SUBLEVEL")];
  return version === undefined || patchlevel === undefined ? null : `${version}.${patchlevel}.${sublevel ?? 0}`;
}

/** @throws UsageError naming the package that has them */
function findHeaders(root: string, version: string, given: string | undefined): string {
  const isConfigured = (folder: string): boolean => existsSync(join(folder, "include/generated/autoconf.h"));
  if (given !== undefined) {
    if (isConfigured(resolve(given))) return realpathSync(resolve(given));
    throw new UsageError(
      `${given}: has no include/generated/autoconf.h; name a configured tree or a linux-headers-*-amd64 folder`,
    );
  }
  if (isConfigured(root)) return root;
  const series = version.split(".").slice(0, 2).join(".");
  const folder = "/usr/src";
  const candidates = existsSync(folder) ? readdirSync(folder) : [];
  const matching = candidates
    .filter((name) => new RegExp(`^linux-headers-${series.replace(".", "\\.")}\\.[\\w.+-]*-amd64$`).test(name))
    .filter((name) => !/-(?:rt|cloud)-/.test(name) && isConfigured(join(folder, name)))
    .sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  const best = matching.at(-1);
  if (best !== undefined) return join(folder, best);
  throw new UsageError(
    `no configuration for Linux ${series}: install the package linux-headers-${series}.*-amd64 (apt-cache search linux-headers-${series}), or give --headers`,
  );
}
