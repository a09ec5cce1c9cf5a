/** What an execution shows to be wrong with the program. */

/** Something that went wrong in an execution. */
export interface Failure {
  readonly property: string;
  readonly message: string;
  /** The event at which it showed; the number of events when it showed at the end. */
  readonly event: number;
  readonly lane: number;
  /** For a race: the place, and the task on the other side with how many of its events come before its access. */
  readonly addr?: number;
  readonly peer?: { readonly lane: number; readonly nth: number };
}
