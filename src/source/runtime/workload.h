/* What parts of the run-time share for workloads. */
#ifndef RACEWALK_WORKLOAD_H
#define RACEWALK_WORKLOAD_H

#include "racewalk.h"

#define RW_PHYS_BITS 40

/* An instruction of the guest, as the checker knows it: the emulator (emulate.c) carries it out. */
enum { RW_NOTHING, RW_READ, RW_WRITE, RW_INCREMENT, RW_INVLPG, RW_CONTROL, RW_UNKNOWN };

struct rw_instruction {
	u64 gva;
	/* What is stored, added, or loaded into a control register. */
	u64 value;
	/* What was read. */
	u64 found;
	u32 kind;
	u32 size;
	u32 control;
	u32 user;
	u32 is_found;
	/* 0: its address is not modelled, and nothing is fetched. */
	u32 is_fetched;
	u32 length;
	u8 bytes[16];
};

extern struct rw_instruction rw_instructions[RW_CPUS];

void rw_vcpu_load(struct kvm_vcpu *vcpu);
void rw_vcpu_put(void);
int rw_dirty_ring_alloc(struct kvm_vcpu *vcpu);

#endif
