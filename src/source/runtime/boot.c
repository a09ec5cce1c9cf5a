/* The kernel around KVM that is data only: tasks, CPUs, the memory map. */
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/mmzone.h>
#include <linux/cpumask.h>
#include <linux/radix-tree.h>
#include <linux/kvm_host.h>
#include <asm/processor.h>
#include <asm/smp.h>
#include "racewalk.h"

/* The CPUs and their threads: one thread a CPU. */
struct task_struct rw_tasks[RW_CPUS];
struct mm_struct rw_mm;
/* Stands for every mapping: ordinary memory, of which KVM looks at no more than the flags. */
struct vm_area_struct rw_kept_vma;

/* A frame's number is its address in the heap, divided by the page size; their struct pages lie where rw_vmemmap says. */
static struct mem_section section[RW_SECTIONS];
static struct mem_section *sections[1] = { section };
struct mem_section **mem_section = sections;

/* Bits of page->flags, for who fills in the memory map. */
const unsigned long rw_kept_page_head = 1UL << PG_head;

/* The end of the process's addresses. */
unsigned long USER_PTR_MAX = (1UL << 47) - 4096;
unsigned int nr_cpu_ids = RW_CPUS;
struct cpumask __cpu_online_mask, __cpu_possible_mask, __cpu_present_mask;
struct cpuinfo_x86 boot_cpu_data;

/* Per-CPU variables of CPUs other than 0. */
extern char __start_percpu[], __stop_percpu[];
char rw_percpu_copies[RW_CPUS][RW_PERCPU_BYTES] __aligned(64);
unsigned long rw_percpu_offsets[RW_CPUS];

static void make_percpu_copies(void)
{
	unsigned long bytes = __stop_percpu - __start_percpu;

	BUG_ON(bytes > RW_PERCPU_BYTES);
	for (int cpu = 1; cpu < RW_CPUS; cpu++) {
		rw_percpu_offsets[cpu] = rw_percpu_copies[cpu] - __start_percpu;
		memcpy(rw_percpu_copies[cpu], __start_percpu, bytes);
	}
}

/* An interrupt that nobody waits for: whoever is in the guest leaves it. */
void rw_interrupt(int cpu);
static void send_reschedule(int cpu) { rw_interrupt(cpu); }
struct smp_ops smp_ops = { .smp_send_reschedule = send_reschedule };

void rw_boot(void)
{
	make_percpu_copies();
	for (int cpu = 0; cpu < RW_CPUS; cpu++) {
		cpumask_set_cpu(cpu, &__cpu_online_mask);
		cpumask_set_cpu(cpu, &__cpu_possible_mask);
		cpumask_set_cpu(cpu, &__cpu_present_mask);
		rw_tasks[cpu].mm = &rw_mm;
		rw_tasks[cpu].active_mm = &rw_mm;
		rw_tasks[cpu].pid = 1000 + cpu;
	}
	radix_tree_init();
	for (int i = 0; i < RW_SECTIONS; i++)
		section[i].section_mem_map = SECTION_MARKED_PRESENT | SECTION_HAS_MEM_MAP | SECTION_IS_ONLINE | SECTION_IS_EARLY;
	atomic_set(&rw_mm.mm_users, 1);
	atomic_set(&rw_mm.mm_count, 1);
	boot_cpu_data.x86_phys_bits = 46;
	boot_cpu_data.x86_virt_bits = 48;
	boot_cpu_data.x86_cache_bits = 46;
	set_cpu_cap(&boot_cpu_data, X86_FEATURE_NX);
	set_cpu_cap(&boot_cpu_data, X86_FEATURE_GBPAGES);
}

/* The scheduler wants the CPU back, and will go on wanting it. */
void rw_always_resched(int cpu) { set_tsk_need_resched(&rw_tasks[cpu]); }

unsigned long rw_page_of(unsigned long pfn) { return (unsigned long)pfn_to_page(pfn); }
unsigned long rw_page_refcount(unsigned long pfn) { return (unsigned long)&pfn_to_page(pfn)->_refcount; }
unsigned long rw_task_of(int cpu) { return (unsigned long)&rw_tasks[cpu]; }
