/** What an execution shows to be wrong with the program. */

/** How far a lane was: after its `nth` event. */
export interface Moment {
  readonly lane: number;
  readonly nth: number;
}

/** What one task did of what is wrong only together with what others did. */
export interface Side {
  readonly lane: number;
  /** "takes a, then b" */
  readonly text: string;
  /** The events that the text is about, by their number in the lane, in order. */
  readonly at: readonly number[];
}

/** Something that went wrong in an execution. */
export interface Failure {
  readonly property: string;
  readonly message: string;
  /** The event at which it showed; the number of events when it showed at the end. */
  readonly event: number;
  readonly lane: number;
  /** For a race: the place. */
  readonly addr?: number;
  /** What else belongs to it, though nothing need order it with {@link event}: the other access of a race, the end of the life of what is used. */
  readonly peers?: readonly Moment[];
  /** What the tasks did, when it takes several: their last event is where it shows. */
  readonly sides?: readonly Side[];
}
