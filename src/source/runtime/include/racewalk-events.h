/* Tracepoints as calls: what an event's header says, said twice (linux/tracepoint.h, trace/define_trace.h).
 *
 *     everywhere                      trace_NAME(...)        calls tracepoint_NAME(...) when events are wanted
 *     where CREATE_TRACE_POINTS is    tracepoint_NAME(...)   fills in struct rw_event_CLASS by the header's own TP_fast_assign(), and hands it over
 *
 * No include guard: each file that has events comes here again, since the header that makes them leaves other macros behind. */
#undef TRACE_EVENT
#undef TRACE_EVENT_CONDITION
#undef TRACE_EVENT_FN
#undef TRACE_EVENT_FN_COND
#undef TRACE_EVENT_NOP
#undef DECLARE_EVENT_CLASS
#undef DEFINE_EVENT
#undef DEFINE_EVENT_FN
#undef DEFINE_EVENT_PRINT
#undef DEFINE_EVENT_CONDITION
#undef DEFINE_EVENT_NOP

#define TRACE_EVENT_CONDITION(name, proto, args, cond, tstruct, assign, print) \
	TRACE_EVENT(name, PARAMS(proto), PARAMS(args), PARAMS(tstruct), PARAMS(assign), PARAMS(print))
#define TRACE_EVENT_FN(name, proto, args, tstruct, assign, print, reg, unreg) \
	TRACE_EVENT(name, PARAMS(proto), PARAMS(args), PARAMS(tstruct), PARAMS(assign), PARAMS(print))
#define TRACE_EVENT_FN_COND(name, proto, args, cond, tstruct, assign, print, reg, unreg) \
	TRACE_EVENT(name, PARAMS(proto), PARAMS(args), PARAMS(tstruct), PARAMS(assign), PARAMS(print))
#define DEFINE_EVENT_FN(class, name, proto, args, reg, unreg) DEFINE_EVENT(class, name, PARAMS(proto), PARAMS(args))
#define DEFINE_EVENT_PRINT(class, name, proto, args, print) DEFINE_EVENT(class, name, PARAMS(proto), PARAMS(args))
#define DEFINE_EVENT_CONDITION(class, name, proto, args, cond) DEFINE_EVENT(class, name, PARAMS(proto), PARAMS(args))
#define TRACE_EVENT_NOP(name, proto, args, tstruct, assign, print)
#define DEFINE_EVENT_NOP(class, name, proto, args)

#ifdef RW_EVENTS_HERE

#define DECLARE_EVENT_CLASS(name, proto, args, tstruct, assign, print)                            \
	struct rw_event_##name {                                                                  \
		tstruct                                                                           \
	};                                                                                        \
	static __always_inline void rw_assign_##name(struct rw_event_##name *__entry, proto)      \
	{                                                                                         \
		assign;                                                                           \
	}
#define DEFINE_EVENT(class, name, proto, args)                                                    \
	void tracepoint_##name(proto);                                                            \
	noinline void tracepoint_##name(proto)                                   \
	{                                                                                         \
		struct rw_event_##class entry = {};                                               \
		rw_assign_##class(&entry, args);                                                  \
		rw_event(#name, #class, &entry);                                                  \
	}
#define TRACE_EVENT(name, proto, args, tstruct, assign, print)                                    \
	DECLARE_EVENT_CLASS(name, PARAMS(proto), PARAMS(args), PARAMS(tstruct), PARAMS(assign), ) \
	DEFINE_EVENT(name, name, PARAMS(proto), PARAMS(args))

#else

#define DECLARE_EVENT_CLASS(name, proto, args, tstruct, assign, print)
#define DEFINE_EVENT(class, name, proto, args)                         \
	void tracepoint_##name(proto);                                 \
	static __always_inline bool trace_##name##_enabled(void)       \
	{                                                              \
		return rw_tracing;                                     \
	}                                                              \
	static __always_inline void trace_##name(proto)                \
	{                                                              \
		if (rw_tracing)                                        \
			tracepoint_##name(args);                       \
	}
#define TRACE_EVENT(name, proto, args, tstruct, assign, print) DEFINE_EVENT(, name, PARAMS(proto), PARAMS(args))

#endif
