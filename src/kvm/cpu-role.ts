/**
 * Roles in which the guest's paging has a part: what mode the vCPU is in (cpu_role), which tables shadow it (root_role), and what each access
 * may do there.
 *
 *     bits of a role word that only shadow pages use      4  entries of 4 bytes      5-6  quadrant      7  direct
 *     6.12    14  SMEP without WP      15  SMAP without WP
 *     7.2     20  SMEP                 15  SMAP without WP
 *
 *     access     6.12: exec 1, write 2, user 4            7.2: read 1, write 2, user 4, exec 8
 *
 * Pages that shadow the same table in different modes have different roles, and so are different pages. Stands for kvm_calc_cpu_role(),
 * kvm_init_shadow_mmu(), kvm_mmu_child_role(), update_permission_bitmask() and permission_fault() of 6.12 and 7.2.
 */
import type { U64 } from "../engine/index.ts";
import {
  isExecutable,
  isPresent,
  isUser,
  isWritable,
  type PagingMode,
  PFERR_FETCH,
  PFERR_PRESENT,
  PFERR_USER,
  PFERR_WRITE,
} from "../machine/index.ts";
import type { FixName } from "./fixes.ts";
import { type RoleLayout, roleLevel } from "./role.ts";
import type { KernelVersion } from "./variants.ts";

/** ACC_*: what an entry, or all entries on the way to it, allow. */
export interface AccessBits {
  /** 0 before there was one: what is present can be read. */
  readonly read: number;
  readonly write: number;
  readonly user: number;
  readonly exec: number;
  readonly all: number;
}

const ACCESS_BITS: Readonly<Record<KernelVersion, AccessBits>> = {
  "6.12": { read: 0, write: 2, user: 4, exec: 1, all: 7 },
  "7.2": { read: 1, write: 2, user: 4, exec: 8, all: 15 },
};

export function accessBits(kernel: KernelVersion): AccessBits {
  return ACCESS_BITS[kernel];
}

export const ROLE_HAS_4_BYTE_GPTE = 1 << 4;
const QUADRANT_SHIFT = 5;
const QUADRANT_MASK = 3 << QUADRANT_SHIFT;
const ROLE_DIRECT = 1 << 7;
const ACCESS_SHIFT = 8;
const SMEP_ANDNOT_WP_6_12 = 1 << 14;
const SMAP_ANDNOT_WP = 1 << 15;
const CR4_SMEP_7_2 = 1 << 20;

/** PT32E_ROOT_LEVEL */
export const PAE_ROOT_LEVEL = 3;

/** kvm_calc_cpu_role(), its base: what the guest's own paging is. */
export function calcCpuRole(kernel: KernelVersion, layout: RoleLayout, mode: PagingMode): number {
  const base = layout.accessAll << ACCESS_SHIFT;
  if (!mode.paging) return base | ROLE_DIRECT;
  let role = base | mode.levels;
  if (mode.nx) role |= layout.efer_nx;
  if (mode.wp) role |= layout.cr0_wp;
  if (kernel === "7.2" && mode.smep) role |= CR4_SMEP_7_2;
  if (kernel === "6.12" && mode.smep && !mode.wp) role |= SMEP_ANDNOT_WP_6_12;
  if (mode.smap && !mode.wp) role |= SMAP_ANDNOT_WP;
  if (!mode.pae) role |= ROLE_HAS_4_BYTE_GPTE;
  return role;
}

/** kvm_init_shadow_mmu(): the tables that shadow it are those of PAE paging at least, and use NX whether the guest does or not. */
export function calcShadowRootRole(layout: RoleLayout, cpuRole: number): number {
  const level = Math.max(roleLevel(cpuRole), PAE_ROOT_LEVEL);
  return (cpuRole & ~0xf) | level | layout.efer_nx;
}

/** The bits of 7.2's roles that tell apart what the supervisor may do, but for those that are undone. */
export function withoutUndoneBits(layout: RoleLayout, role: number, lacks: (fix: FixName) => boolean): number {
  let kept = role;
  if (lacks("role-lacks-a-mode-bit/cr0_wp")) kept &= ~layout.cr0_wp;
  if (lacks("role-lacks-a-mode-bit/smep")) kept &= ~CR4_SMEP_7_2;
  if (lacks("role-lacks-a-mode-bit/smap")) kept &= ~SMAP_ANDNOT_WP;
  return kept;
}

/** The level of the guest's tables that a vCPU with this role has; 0 without paging. */
export function guestLevels(cpuRole: number): number {
  return roleLevel(cpuRole);
}

/** A role with another level and, for tables of 4-byte entries, the quadrant of them that the page shadows. */
export function roleAtLevel(role: number, level: number, quadrant: number): number {
  return (role & ~0xf & ~QUADRANT_MASK) | level | (quadrant << QUADRANT_SHIFT);
}

export function roleQuadrant(role: number): number {
  return (role & QUADRANT_MASK) >>> QUADRANT_SHIFT;
}

export interface ChildKind {
  /** Maps guest frames in a row; does not shadow a table. */
  readonly direct: boolean;
  readonly access: number;
  /** Index of the entry that links it. */
  readonly index: number;
}

/**
 * kvm_mmu_child_role(). A table of 4-byte entries maps 4M; the shadow page of one half of it maps 2M, and two neighbouring entries link the
 * two halves.
 */
export function childRoleOf(layout: RoleLayout, parent: number, { direct, access, index }: ChildKind): number {
  const accessMask = layout.accessAll << ACCESS_SHIFT;
  const has4Byte = (parent & ROLE_HAS_4_BYTE_GPTE) !== 0;
  const base = roleAtLevel(parent, roleLevel(parent) - 1, has4Byte ? index & 1 : roleQuadrant(parent));
  return (base & ~accessMask & ~ROLE_DIRECT) | (access << ACCESS_SHIFT) | (direct ? ROLE_DIRECT : 0);
}

/** Bits in which the page found and the vCPU's root may differ when the page is brought up to date. */
export function syncRoleIgnored(layout: RoleLayout): number {
  return 0xf | QUADRANT_MASK | (layout.accessAll << ACCESS_SHIFT);
}

/** FNAME(gpte_access): what one entry of the guest allows. NX counts only where the guest has it; else the bit is reserved. */
export function gpteAccess(bits: AccessBits, gpte: U64): number {
  let access = 0;
  if (isPresent(gpte)) access |= bits.read;
  if (isWritable(gpte)) access |= bits.write;
  if (isUser(gpte)) access |= bits.user;
  if (isExecutable(gpte)) access |= bits.exec;
  return access;
}

/**
 * permission_fault(): may an access of that kind (bits of a page-fault error code) go ahead with the rights? Returns the error code's P bit when it
 * may not, else 0.
 */
export function permissionFault(bits: AccessBits, mode: PagingMode, rights: number, access: number): number {
  const write = (access & PFERR_WRITE) !== 0;
  const user = (access & PFERR_USER) !== 0;
  const fetch = (access & PFERR_FETCH) !== 0;
  const isUserPage = (rights & bits.user) !== 0;
  const readDenied = !write && !fetch && bits.read !== 0 && (rights & bits.read) === 0;
  const writeDenied = write && (rights & bits.write) === 0 && (user || mode.wp);
  const userDenied = user && !isUserPage;
  const fetchDenied = fetch && mode.nx && (rights & bits.exec) === 0;
  const supervisorDenied = !user && isUserPage && (fetch ? mode.smep : mode.smap);
  const denied = readDenied || writeDenied || userDenied || fetchDenied || supervisorDenied;
  return denied ? PFERR_PRESENT : 0;
}
