/*
 * N tasks take a ticket lock K times each and count under it: `ticket` of
 * bench/speed/graphs.ts, one transition for each of its steps.
 *
 * What a process has read it keeps, as a task of racewalk does, and it stops
 * where it has nothing left to do, as its end would be one more step: so
 * both have the same states.
 */
byte next, owner, d;

active [N] proctype task()
{
	byte mine[K], count[K];
	byte i;

end:	do
	:: d_step { i < K -> mine[i] = next; next++ };
	   owner == mine[i];
	   count[i] = d;
	   d = count[i] + 1;
	   d_step { owner = mine[i] + 1; i++ }
	od
}
