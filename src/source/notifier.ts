/** A compiled KVM's MMU notifier: what the host's mm calls from the creation of a VM on. */
import type { Steps } from "../engine/index.ts";
import type { Mm, NotifierRange } from "../kernel/index.ts";
import type { CompiledKernel } from "./machine.ts";

/** @param vm struct kvm */
export function registerNotifier(kernel: CompiledKernel, mm: Mm, vm: number | bigint): void {
  const kvm = BigInt(vm);
  const range = ({ start, end, event }: NotifierRange): (number | bigint)[] => [kvm, BigInt(start), BigInt(end), event];
  function* age(name: string, ...addresses: readonly number[]): Steps<boolean> {
    return (yield* kernel.call(name, kvm, ...addresses.map(BigInt))) !== 0;
  }
  mm.notifiers.push({
    *invalidateRangeStart(of) {
      yield* kernel.call("rw_invalidate_range_start", ...range(of));
    },
    *invalidateRangeEnd(of) {
      yield* kernel.call("rw_invalidate_range_end", ...range(of));
    },
    clearFlushYoung: (start, end) => age("rw_clear_flush_young", start, end),
    clearYoung: (start, end) => age("rw_clear_young", start, end),
    testYoung: (addr) => age("rw_test_young", addr),
  });
}
