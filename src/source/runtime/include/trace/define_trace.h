/* The file that has CREATE_TRACE_POINTS has the functions that fill in events: the event header is read again for them. */
#ifdef CREATE_TRACE_POINTS
#undef CREATE_TRACE_POINTS
#define RW_EVENTS_HERE
#include <racewalk-events.h>

#define __field(type, item) type item;
#define __field_ext(type, item, filter) type item;
#define __field_struct(type, item) type item;
#define __field_struct_ext(type, item, filter) type item;
#define __array(type, item, len) type item[len];
/* Nobody reads those here. */
#define __dynamic_array(type, item, len)
#define __string(item, source)
#define __assign_str(item, ...)
#define TP_STRUCT__entry(args...) args
#define TP_fast_assign(args...) args

#ifndef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE TRACE_SYSTEM
#define RW_UNDEF_INCLUDE_FILE
#endif
#ifndef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH trace/events
#define RW_UNDEF_INCLUDE_PATH
#endif
#define RW_TRACE_FILE(file) RW_TRACE_STRING(TRACE_INCLUDE_PATH/file.h)
#define RW_TRACE_STRING(name...) RW_TRACE_TEXT(name)
#define RW_TRACE_TEXT(name...) #name

#define TRACE_HEADER_MULTI_READ
#include RW_TRACE_FILE(TRACE_INCLUDE_FILE)
#undef TRACE_HEADER_MULTI_READ

#undef RW_TRACE_FILE
#undef RW_TRACE_STRING
#undef RW_TRACE_TEXT
#ifdef RW_UNDEF_INCLUDE_FILE
#undef TRACE_INCLUDE_FILE
#undef RW_UNDEF_INCLUDE_FILE
#endif
#ifdef RW_UNDEF_INCLUDE_PATH
#undef TRACE_INCLUDE_PATH
#undef RW_UNDEF_INCLUDE_PATH
#endif
#undef __field
#undef __field_ext
#undef __field_struct
#undef __field_struct_ext
#undef __array
#undef __dynamic_array
#undef __string
#undef __assign_str
#undef TP_STRUCT__entry
#undef TP_fast_assign
#undef RW_EVENTS_HERE
#include <racewalk-events.h>
#define CREATE_TRACE_POINTS
#endif
