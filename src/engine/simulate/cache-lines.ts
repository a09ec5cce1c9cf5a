/**
 * Who has a cache line: what an access costs beyond the instruction.
 *
 * For each 64-byte line: the CPU that wrote it last, or that it is shared. The first to read a line that another CPU wrote fetches it, and so does
 * whoever writes a line that is not his alone; further readers of a shared line are taken to have it (an undercount by one fetch a reader,
 * which keeps this one number a line). Locked accesses to one line follow one another: while it travels, the next has to wait.
 */
const LINE_SHIFT = 6;
/** Nobody has touched it. */
const COLD = 0;
/** Read by somebody since it was written. */
const SHARED = -1;

export class CacheLines {
  private readonly owner: Int16Array;
  /** Lines that are on their way, until when. */
  private readonly busyUntil = new Map<number, number>();

  constructor(heapBytes: number) {
    this.owner = new Int16Array(Math.ceil(heapBytes / 2 ** LINE_SHIFT));
  }

  /** True when CPU `cpu` has to fetch the line for reading; it is shared from then on. */
  read(cpu: number, addr: number): boolean {
    const line = addr >>> LINE_SHIFT;
    const owner = this.owner[line] as number;
    if (owner === cpu + 1 || owner === SHARED || owner === COLD) return false;
    this.owner[line] = SHARED;
    return true;
  }

  /** True when CPU `cpu` has to fetch the line for writing; it is his from then on. */
  write(cpu: number, addr: number): boolean {
    const line = addr >>> LINE_SHIFT;
    const owner = this.owner[line] as number;
    this.owner[line] = cpu + 1;
    return owner !== cpu + 1 && owner !== COLD;
  }

  /** When a transfer that is asked for at `time` can begin; the line is then busy for `duration`. */
  transfer(addr: number, time: number, duration: number): number {
    const line = addr >>> LINE_SHIFT;
    const begin = Math.max(time, this.busyUntil.get(line) ?? 0);
    this.busyUntil.set(line, begin + duration);
    return begin;
  }
}
