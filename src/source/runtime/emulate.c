/* In emulate.c's place: an emulator that is told what the instruction does, and does it by the same operations (struct x86_emulate_ops of x86.c), in the
 * same order: fetch, read through the cache that survives an exit to the VMM, write or compare-and-exchange, then the registers. */
#include <linux/kvm_host.h>
#include "kvm_emulate.h"
#include "workload.h"

struct rw_instruction rw_instructions[RW_CPUS];

/* For the reader of a diagram. */
void rw_emulation_fails(void);

static struct rw_instruction *instruction_of(struct x86_emulate_ctxt *ctxt)
{
	return &rw_instructions[((struct kvm_vcpu *)ctxt->vcpu)->vcpu_id];
}

void init_decode_cache(struct x86_emulate_ctxt *ctxt)
{
	ctxt->mem_read.pos = 0;
	ctxt->mem_read.end = 0;
}

void emulator_invalidate_register_cache(struct x86_emulate_ctxt *ctxt) { }
void emulator_writeback_register_cache(struct x86_emulate_ctxt *ctxt) { }

/* An address from a fault is that of the one operand. */
bool emulator_can_use_gpa(struct x86_emulate_ctxt *ctxt)
{
	return true;
}

bool x86_page_table_writing_insn(struct x86_emulate_ctxt *ctxt)
{
	return instruction_of(ctxt)->kind == RW_WRITE;
}

int x86_decode_insn(struct x86_emulate_ctxt *ctxt, void *insn, int insn_len, int emulation_type)
{
	struct rw_instruction *in = instruction_of(ctxt);
	int rc;

	ctxt->fetch.ptr = ctxt->fetch.data;
	ctxt->_eip = ctxt->eip;
	if (in->is_fetched) {
		unsigned int room = 4096 - (ctxt->eip & 4095);

		rc = ctxt->ops->fetch(ctxt, ctxt->eip, ctxt->fetch.data, min(15U, room), &ctxt->exception);
		if (rc == X86EMUL_PROPAGATE_FAULT)
			ctxt->have_exception = true;
		if (rc != X86EMUL_CONTINUE)
			return EMULATION_FAILED;
	}
	memcpy(ctxt->fetch.data, in->bytes, sizeof(ctxt->fetch.data));
	ctxt->fetch.ptr = ctxt->fetch.data + in->length;
	ctxt->_eip = ctxt->eip + in->length;
	if (in->kind != RW_UNKNOWN)
		return EMULATION_OK;
	rw_emulation_fails();
	return EMULATION_FAILED;
}

static int read_operand(struct x86_emulate_ctxt *ctxt, struct rw_instruction *in, u64 *value)
{
	struct read_cache *cache = &ctxt->mem_read;
	int rc;

	if (cache->pos >= cache->end) {
		rc = ctxt->ops->read_emulated(ctxt, in->gva, cache->data + cache->end, in->size, &ctxt->exception);
		if (rc != X86EMUL_CONTINUE)
			return rc;
		cache->end += in->size;
	}
	*value = 0;
	memcpy(value, cache->data + cache->pos, in->size);
	cache->pos += in->size;
	return X86EMUL_CONTINUE;
}

static int execute(struct x86_emulate_ctxt *ctxt, struct rw_instruction *in)
{
	u64 old, new;
	int rc;

	switch (in->kind) {
	case RW_READ:
		rc = read_operand(ctxt, in, &old);
		if (rc == X86EMUL_CONTINUE)
			in->found = old, in->is_found = 1;
		return rc;
	case RW_WRITE:
		return ctxt->ops->write_emulated(ctxt, in->gva, &in->value, in->size, &ctxt->exception);
	case RW_INCREMENT:
		rc = read_operand(ctxt, in, &old);
		if (rc != X86EMUL_CONTINUE)
			return rc;
		in->found = old, in->is_found = 1;
		new = old + in->value;
		return ctxt->ops->cmpxchg_emulated(ctxt, in->gva, &old, &new, in->size, &ctxt->exception);
	case RW_INVLPG:
		ctxt->ops->invlpg(ctxt, in->gva);
		return X86EMUL_CONTINUE;
	case RW_CONTROL:
		return ctxt->ops->set_cr(ctxt, in->control, in->value) ? X86EMUL_UNHANDLEABLE : X86EMUL_CONTINUE;
	default:
		return X86EMUL_UNHANDLEABLE;
	}
}

int x86_emulate_insn(struct x86_emulate_ctxt *ctxt, bool check_intercepts)
{
	int rc;

	ctxt->mem_read.pos = 0;
	rc = execute(ctxt, instruction_of(ctxt));
	if (rc == X86EMUL_CONTINUE)
		ctxt->eip = ctxt->_eip;
	if (rc == X86EMUL_PROPAGATE_FAULT)
		ctxt->have_exception = true;
	return rc == X86EMUL_UNHANDLEABLE ? EMULATION_FAILED : EMULATION_OK;
}
