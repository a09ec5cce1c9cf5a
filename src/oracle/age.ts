/**
 * Age: an access is reported once it has been made, by an aging call that clears or by a later one.
 *
 * Documented exceptions, which a scenario has to leave out or expect: an access through a translation that the TLB still has from before sets no
 * accessed bit, and an access that KVM cannot tell because the page was unmapped in between is gone with the mapping.
 */

/** What one aging thread was told of a page: by the call that clears, and by one that looks after the accesses are over. */
export interface AgeReports {
  readonly cleared: boolean;
  readonly young: boolean;
}

/** @param accessed somebody accessed the page by a walk of its own, after the scenario began. @returns null when the access was reported */
export function ageProblem(accessed: boolean, { cleared, young }: AgeReports): string | null {
  return !accessed || cleared || young ? null : "the page was accessed, but aging calls it old, before and after";
}
