/**
 * What a workload sets of KVM itself: capabilities of the VM, parameters of the module, and the thread that one of these wakes.
 */

import type { Kvm } from "../kvm/kvm.ts";
import type { ModuleParams } from "../kvm/module-params.ts";
import type { OperationMachine } from "./host-operations.ts";
import type { Workload } from "./workload.ts";

/** KVM_ENABLE_CAP, and the parameters that the modules are loaded with; before there is a slot or a vCPU. */
export function applySettings(kvm: Kvm, workload: Workload): void {
  const { npt, tdpMmu, eagerPageSplit, nxHugePages } = workload.kernelParams;
  kvm.params.npt = npt;
  kvm.params.tdpMmu = tdpMmu;
  kvm.params.eagerPageSplit = eagerPageSplit;
  kvm.params.nxHugePages = nxHugePages;
  for (const { cap, arg } of workload.caps) {
    if (cap === "manual_dirty_log_protect2") kvm.manualDirtyLogProtect = arg;
    else kvm.dirtyRingSize = arg;
  }
}

const PARAMETER = /^\/sys\/module\/kvm\/parameters\/(\w+)$/;

/** Writes a file. Settings that are not KVM's are the host's business. */
export function writeFile(machine: OperationMachine, path: string, text: string, task: string): void {
  const name = PARAMETER.exec(path)?.[1];
  if (name !== undefined) machine.sequentially(task, () => machine.body.setParameter(name, text.trim()));
}

/** How the thread that recovers NX huge pages is called, as far as its name is traced. */
const RECOVERY_THREAD = "kvm-nx-lpage-re";

/** Rounds of the thread that recovers NX huge pages. */
export function recoverNxHugePages(machine: OperationMachine, rounds: number): void {
  for (let i = 0; i < rounds; i++) machine.sequentially(RECOVERY_THREAD, () => machine.body.recoverNxHugePages());
}

/** How many rounds the thread makes in a time when no recording says so. */
export function recoveryRounds(params: ModuleParams, milliseconds: number): number {
  if (!params.nxHugePages || params.nxHugePagesRecoveryRatio === 0) return 0;
  const period = recoveryPeriodMs(params);
  // After the first few there is nothing left to recover, whatever the ratio.
  return Math.min(Math.floor(milliseconds / period), 1000);
}

const HOUR_MS = 3_600_000;

/** calc_nx_huge_pages_recovery_period() */
function recoveryPeriodMs({ nxHugePagesRecoveryRatio, nxHugePagesRecoveryPeriodMs }: ModuleParams): number {
  if (nxHugePagesRecoveryPeriodMs > 0) return nxHugePagesRecoveryPeriodMs;
  return Math.floor(HOUR_MS / Math.min(nxHugePagesRecoveryRatio, 3600));
}
