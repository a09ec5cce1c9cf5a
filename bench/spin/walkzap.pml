/*
 * KVM's lockless walk of P shadow pages by W walkers against a zap that frees
 * them: `walkzap` of bench/dpor/walkzap.ts, one transition for each of its
 * steps. See ticket.pml for how the states are made the same.
 */
#define OUTSIDE_GUEST_MODE 0
#define READING_SHADOW_PAGE_TABLES 3

byte mode[W];
bit zapped[P], freed[P];

active [W] proctype walker()
{
	bit seen[P], isReading;
	byte k;

	mode[_pid] = READING_SHADOW_PAGE_TABLES;
	/* The barrier. */
	d_step { k == 0 -> k = 1 };
end:	do
	:: d_step { k <= P && !isReading -> seen[k - 1] = zapped[k - 1];
		if :: seen[k - 1] -> k++ :: else -> isReading = 1 fi }
	:: d_step { isReading -> assert(!freed[k - 1]); isReading = 0; k++ }
	:: d_step { k == P + 1 -> mode[_pid] = OUTSIDE_GUEST_MODE; k++ }
	od
}

active proctype zapper()
{
	byte z;

end:	do
	:: d_step { z < P -> zapped[z] = 1; z++ }
	/* The barrier. */
	:: d_step { z == P -> z++ }
	:: d_step { z > P && z <= P + W && mode[z - P - 1] != READING_SHADOW_PAGE_TABLES -> z++ }
	:: d_step { z > P + W && z <= P + W + P -> freed[z - P - W - 1] = 1; z++ }
	od
}
