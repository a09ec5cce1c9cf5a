/* Every access of the compiled kernel comes through here.
 *
 * Addresses are those of the modelled world's heap. What only the running task can see (its stack, constants) is accessed where it is; so is
 * everything while the world is being set up (rw_native). The rest is asked of the checker: plain accesses are answered at once, operations
 * may suspend the task (the import "operation" is the one that asyncify unwinds from, besides the services).
 *
 * Compiled for wasm64 as it is, without instrumentation. */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

#define IMPORT(name) __attribute__((import_module("racewalk"), import_name(name)))

/* The low half of the result is returned, the high half is left in rw_high. */
IMPORT("load") u32 js_load(u32 addr, u32 bytes, u32 site);
IMPORT("store") void js_store(u32 addr, u32 bytes, u32 lo, u32 hi, u32 site);
/* Fills memory that nobody but the running task knows yet; 0 when others may know it. */
IMPORT("fill_fresh") u32 js_fill_fresh(u32 addr, u32 bytes, u32 lo, u32 hi);
IMPORT("operation") u32 js_operation(u32 kind, u32 addr, u32 bytes, u32 lo, u32 hi, u32 old_lo, u32 old_hi, u32 site);
IMPORT("wild") void js_wild(u32 lo, u32 hi, u32 site);
IMPORT("assembly") void js_assembly(u32 site);
IMPORT("event") void js_event(u32 name, u32 structure, u32 entry);

/* Set by the checker. */
u32 rw_native = 1;
u32 rw_site;
u32 rw_high;
u64 rw_constants_from, rw_constants_bytes;
u64 rw_stacks_from, rw_stacks_bytes;
u64 rw_memory_bytes;
void *rw_current;
u32 rw_cpu;
u64 rw_percpu_offset;
/* Address of frame 0's struct page. */
u64 rw_vmemmap;
/* Events are wanted. */
u32 rw_tracing;

/* Kinds of operation, as in the engine's OpKind. */
enum { LOAD = 0, STORE = 1, EXCHANGE = 3, ADD = 4, AND = 5, OR = 6, COMPARE_EXCHANGE = 7, FENCE = 12 };
/* What the rewriter calls them. */
enum { RMW_XCHG, RMW_ADD, RMW_SUB, RMW_AND, RMW_OR, RMW_XOR };

static inline int is_own(u64 a)
{
	return rw_native | (a - rw_stacks_from < rw_stacks_bytes) | (a - rw_constants_from < rw_constants_bytes);
}

static u64 read_own(u64 a, u32 bytes)
{
	switch (bytes) {
	case 1: return *(u8 *)a;
	case 2: return *(u16 *)a;
	case 4: return *(u32 *)a;
	default: return *(u64 *)a;
	}
}

static void write_own(u64 a, u64 v, u32 bytes)
{
	switch (bytes) {
	case 1: *(u8 *)a = v; return;
	case 2: *(u16 *)a = v; return;
	case 4: *(u32 *)a = v; return;
	default: *(u64 *)a = v;
	}
}

static inline u64 whole(u32 lo)
{
	return (u64)rw_high << 32 | lo;
}

/* Far outside of all memory: an error code taken for a pointer, say. */
static inline void check(u64 a, u32 site)
{
	if (a >= rw_memory_bytes)
		js_wild(a, a >> 32, site);
}

/* Places whose plain accesses race are operations too; a bit for each 8 bytes, 0 for none at all. */
u64 rw_racing;

static inline int races(u64 a)
{
	return rw_racing && (*(u8 *)(rw_racing + (a >> 6)) >> ((a >> 3) & 7)) & 1;
}

u64 rw_load(u64 a, u32 bytes, u32 site)
{
	if (is_own(a))
		return read_own(a, bytes);
	check(a, site);
	if (races(a))
		return whole(js_operation(LOAD, a, bytes, 0, 0, 0, 0, site));
	return whole(js_load(a, bytes, site));
}

void rw_store(u64 a, u64 v, u32 bytes, u32 site)
{
	if (is_own(a)) {
		write_own(a, v, bytes);
		return;
	}
	check(a, site);
	if (races(a)) {
		js_operation(STORE, a, bytes, v, v >> 32, 0, 0, site);
		return;
	}
	js_store(a, bytes, v, v >> 32, site);
}

u64 rw_load_marked(u64 a, u32 bytes, u32 site)
{
	if (is_own(a))
		return read_own(a, bytes);
	check(a, site);
	return whole(js_operation(LOAD, a, bytes, 0, 0, 0, 0, site));
}

void rw_store_marked(u64 a, u64 v, u32 bytes, u32 site)
{
	if (is_own(a)) {
		write_own(a, v, bytes);
		return;
	}
	check(a, site);
	js_operation(STORE, a, bytes, v, v >> 32, 0, 0, site);
}

u64 rw_cmpxchg(u64 a, u64 old, u64 new, u32 bytes, u32 site)
{
	if (is_own(a)) {
		u64 was = read_own(a, bytes);
		if (was == old)
			write_own(a, new, bytes);
		return was;
	}
	check(a, site);
	return whole(js_operation(COMPARE_EXCHANGE, a, bytes, new, new >> 32, old, old >> 32, site));
}

static u64 narrow(u64 v, u32 bytes)
{
	return bytes == 8 ? v : v & ((1UL << (8 * bytes)) - 1);
}

u64 rw_rmw(u32 kind, u64 a, u64 v, u32 bytes, u32 site)
{
	u64 was, new;

	if (is_own(a)) {
		was = read_own(a, bytes);
		switch (kind) {
		case RMW_XCHG: new = v; break;
		case RMW_ADD: new = was + v; break;
		case RMW_SUB: new = was - v; break;
		case RMW_AND: new = was & v; break;
		case RMW_OR: new = was | v; break;
		default: new = was ^ v;
		}
		write_own(a, new, bytes);
		return was;
	}
	check(a, site);
	switch (kind) {
	case RMW_XCHG: return whole(js_operation(EXCHANGE, a, bytes, v, v >> 32, 0, 0, site));
	case RMW_SUB: v = narrow(-v, bytes); /* fall through */
	case RMW_ADD: return whole(js_operation(ADD, a, bytes, v, v >> 32, 0, 0, site));
	case RMW_AND: return whole(js_operation(AND, a, bytes, v, v >> 32, 0, 0, site));
	case RMW_OR: return whole(js_operation(OR, a, bytes, v, v >> 32, 0, 0, site));
	default: /* The checker has no xor. */
		do {
			was = rw_load_marked(a, bytes, site);
		} while (rw_cmpxchg(a, was, was ^ v, bytes, site) != was);
		return was;
	}
}

void rw_mb(void)
{
	if (!rw_native)
		js_operation(FENCE, 0, 8, 0, 0, 0, 0, rw_site);
}

void rw_asm(u32 site)
{
	if (!rw_native)
		js_assembly(site);
}

void rw_event(const char *name, const char *structure, void *entry)
{
	js_event((u64)name, (u64)structure, (u64)entry);
}

u32 rw_false(void)
{
	return 0;
}

/* --- blocks of memory: word by word, as far as both sides are aligned ------------------------------------------ */

static u32 step_of(u64 a, u64 b, u64 left)
{
	u64 low = (a | b) & 7;
	if (!low && left >= 8)
		return 8;
	if (!(low & 3) && left >= 4)
		return 4;
	if (!(low & 1) && left >= 2)
		return 2;
	return 1;
}

void rw_memcpy(void *to, const void *from, u64 bytes)
{
	u64 a = (u64)to, b = (u64)from;
	u32 site = rw_site;

	for (u32 n; bytes; a += n, b += n, bytes -= n) {
		n = step_of(a, b, bytes);
		rw_store(a, rw_load(b, n, site), n, site);
	}
}

void rw_memmove(void *to, const void *from, u64 bytes)
{
	u64 a = (u64)to + bytes, b = (u64)from + bytes;
	u32 site = rw_site;

	if (to <= from) {
		rw_memcpy(to, from, bytes);
		return;
	}
	for (; bytes; bytes--) {
		a--, b--;
		rw_store(a, rw_load(b, 1, site), 1, site);
	}
}

/* A new page is filled at once: it takes hundreds of stores otherwise, which nobody could see one by one. */
static int fills_fresh(u64 a, u64 v, u64 bytes)
{
	if (is_own(a) || bytes < 64 || (a | bytes) & 7)
		return 0;
	check(a, rw_site);
	return js_fill_fresh(a, bytes, v, v >> 32);
}

void rw_memset64(u64 *to, u64 v, u64 count)
{
	u64 a = (u64)to;
	u32 site = rw_site;

	if (fills_fresh(a, v, 8 * count))
		return;
	for (; count; a += 8, count--)
		rw_store(a, v, 8, site);
}

void rw_memset(void *to, u8 byte, u64 bytes)
{
	u64 a = (u64)to, v = byte * 0x0101010101010101UL;
	u32 site = rw_site;

	if (fills_fresh(a, v, bytes))
		return;
	for (u32 n; bytes; a += n, bytes -= n) {
		n = step_of(a, 0, bytes);
		rw_store(a, narrow(v, n), n, site);
	}
}

/* What compilers call by name. */
void *memcpy(void *to, const void *from, u64 bytes)
{
	rw_memcpy(to, from, bytes);
	return to;
}
void *memmove(void *to, const void *from, u64 bytes)
{
	rw_memmove(to, from, bytes);
	return to;
}
void *memset(void *to, int byte, u64 bytes)
{
	rw_memset(to, byte, bytes);
	return to;
}
int memcmp(const void *to, const void *from, u64 bytes)
{
	for (u64 i = 0; i < bytes; i++) {
		int d = (int)rw_load((u64)to + i, 1, rw_site) - (int)rw_load((u64)from + i, 1, rw_site);
		if (d)
			return d;
	}
	return 0;
}
int bcmp(const void *to, const void *from, u64 bytes)
{
	return memcmp(to, from, bytes);
}
u64 strlen(const char *s)
{
	u64 n = 0;
	while (rw_load((u64)s + n, 1, rw_site))
		n++;
	return n;
}

/* A block that nobody else knows yet. */
void rw_copy_own(u64 to, u64 from, u64 bytes)
{
	for (u64 i = 0; i < bytes; i++)
		*(u8 *)(to + i) = *(u8 *)(from + i);
}
