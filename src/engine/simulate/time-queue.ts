/**
 * Events by time: a binary heap of numbers, first in first out among equal times.
 *
 * Three arrays side by side, so that an event is no object: there is one for each change from one task to another.
 */
export class TimeQueue<T> {
  private readonly times: number[] = [];
  private readonly orders: number[] = [];
  private readonly values: T[] = [];
  private order = 0;
  /** Time of the earliest event; Infinity when there is none. */
  earliest = Number.POSITIVE_INFINITY;

  get size(): number {
    return this.values.length;
  }

  push(time: number, value: T): void {
    const { times, values } = this;
    const order = this.order++;
    let at = values.length;
    times.push(time);
    this.orders.push(order);
    values.push(value);
    // The newest comes after all of its time, so only an earlier time lets it rise.
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if ((times[parent] as number) <= time) break;
      this.move(parent, at);
      at = parent;
    }
    this.put(at, time, order, value);
    this.earliest = times[0] as number;
  }

  /** Takes the earliest event. */
  pop(): T | null {
    const { times, orders, values } = this;
    const [first] = values;
    const time = times.pop();
    const order = orders.pop();
    const last = values.pop();
    if (first === undefined || last === undefined || time === undefined || order === undefined) return null;
    if (values.length > 0) this.sink(time, order, last);
    this.earliest = values.length > 0 ? (times[0] as number) : Number.POSITIVE_INFINITY;
    return first;
  }

  /** Puts an event in the place of the earliest. */
  private sink(time: number, order: number, value: T): void {
    const { length } = this.values;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= length) break;
      const right = child + 1;
      if (right < length && this.isBefore(right, this.times[child] as number, this.orders[child] as number)) {
        child = right;
      }
      if (!this.isBefore(child, time, order)) break;
      this.move(child, at);
      at = child;
    }
    this.put(at, time, order, value);
  }

  private isBefore(at: number, time: number, order: number): boolean {
    const own = this.times[at] as number;
    return own < time || (own === time && (this.orders[at] as number) < order);
  }

  private move(from: number, to: number): void {
    this.put(to, this.times[from] as number, this.orders[from] as number, this.values[from] as T);
  }

  private put(at: number, time: number, order: number, value: T): void {
    this.times[at] = time;
    this.orders[at] = order;
    this.values[at] = value;
  }
}
