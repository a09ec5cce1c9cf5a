/* Static calls are calls through a pointer here, in modules too. */
#include_next <linux/static_call_types.h>
#ifndef static_call_mod
#define static_call_mod(name) static_call(name)
#endif
