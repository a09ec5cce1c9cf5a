/**
 * union kvm_mmu_page_role: what a shadow page is for, as one word.
 *
 *     bits       0-3     4        5-6       7       8..        ..       ..
 *     6.12       level   4-byte   quadrant  direct  access 3   invalid 11  efer_nx 12  cr0_wp 13  ad_disabled 16
 *     7.2        level   4-byte   quadrant  direct  access 4   invalid 12  efer_nx 13  cr0_wp 14  ad_disabled 16
 *
 * Two pages are of one kind when their words are equal.
 */
import type { KernelVersion } from "./variants.ts";

export interface RoleLayout {
  readonly accessBits: number;
  readonly invalid: number;
  readonly efer_nx: number;
  readonly cr0_wp: number;
  readonly ad_disabled: number;
  /** ACC_ALL */
  readonly accessAll: number;
  /** What the tracepoints print for each access value. */
  readonly accessNames: readonly string[];
}

const ACCESS_NAMES_6_12 = ["---", "--x", "w--", "w-x", "-u-", "-ux", "wu-", "wux"];
const ACCESS_NAMES_7_2 = ["", "x"].flatMap((x) =>
  Array.from(
    { length: 8 },
    (_, i) => `${i & 1 ? "r" : "-"}${i & 2 ? "w" : "-"}${i & 4 ? "u" : "-"}${x === "" ? "-" : "x"}`,
  ),
);

const LAYOUTS: Readonly<Record<KernelVersion, RoleLayout>> = {
  "6.12": {
    accessBits: 3,
    invalid: 1 << 11,
    efer_nx: 1 << 12,
    cr0_wp: 1 << 13,
    ad_disabled: 1 << 16,
    accessAll: 7,
    accessNames: ACCESS_NAMES_6_12,
  },
  "7.2": {
    accessBits: 4,
    invalid: 1 << 12,
    efer_nx: 1 << 13,
    cr0_wp: 1 << 14,
    ad_disabled: 1 << 16,
    accessAll: 15,
    accessNames: ACCESS_NAMES_7_2,
  },
};

export function roleLayout(kernel: KernelVersion): RoleLayout {
  return LAYOUTS[kernel];
}

const DIRECT = 1 << 7;
export const ROLE_GUEST_MODE = 1 << 17;
const ACCESS_SHIFT = 8;

/** kvm_calc_tdp_mmu_root_page_role() */
export function tdpRootRole(layout: RoleLayout, level: number, adEnabled: boolean): number {
  const role = level | DIRECT | (layout.accessAll << ACCESS_SHIFT) | layout.efer_nx | layout.cr0_wp;
  return adEnabled ? role : role | layout.ad_disabled;
}

export function roleLevel(role: number): number {
  return role & 0xf;
}

/** The role of a TDP page's child: one level down, the rest the same. */
export function childRole(role: number): number {
  return role - 1;
}

export function roleIsInvalid(layout: RoleLayout, role: number): boolean {
  return (role & layout.invalid) !== 0;
}

export function roleIsDirect(role: number): boolean {
  return (role & DIRECT) !== 0;
}

export function roleAccess(layout: RoleLayout, role: number): number {
  return (role >>> ACCESS_SHIFT) & ((1 << layout.accessBits) - 1);
}

/** The middle of a shadow page's tracepoint text: from `l4` to `ad`. */
export function formatRole(layout: RoleLayout, role: number): string {
  const bytes = (role & (1 << 4)) !== 0 ? 4 : 8;
  const quadrant = (role >>> 5) & 3;
  const direct = roleIsDirect(role) ? " direct" : "";
  const invalid = (role & layout.invalid) !== 0 ? " invalid" : "";
  const nx = (role & layout.efer_nx) !== 0 ? "" : "!";
  const ad = (role & layout.ad_disabled) !== 0 ? "!" : "";
  const access = layout.accessNames[roleAccess(layout, role)] as string;
  return `l${roleLevel(role)} ${bytes}-byte q${quadrant}${direct} ${access}${invalid} ${nx}nxe ${ad}ad`;
}
