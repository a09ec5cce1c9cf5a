/* Events call out to the checker (racewalk-events.h). */
#include_next <linux/tracepoint.h>
#ifndef RACEWALK_LINUX_TRACEPOINT_H
#define RACEWALK_LINUX_TRACEPOINT_H
/* Set by the checker when it wants events. */
extern unsigned int rw_tracing;
void rw_event(const char *name, const char *structure, void *entry);
#endif
#ifndef RW_EVENTS_HERE
#include <racewalk-events.h>
#endif
