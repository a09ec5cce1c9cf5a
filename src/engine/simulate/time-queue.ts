/** Events by time: a binary heap of numbers, first in first out among equal times. */
export class TimeQueue<T> {
  private readonly items: { readonly time: number; readonly order: number; readonly value: T }[] = [];
  private order = 0;

  get size(): number {
    return this.items.length;
  }

  /** Time of the earliest event; Infinity when there is none. */
  get earliest(): number {
    return this.items[0]?.time ?? Number.POSITIVE_INFINITY;
  }

  push(time: number, value: T): void {
    const { items } = this;
    const item = { time, order: this.order++, value };
    let at = items.length;
    items.push(item);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      const above = items[parent] as typeof item;
      if (!isBefore(item, above)) break;
      items[at] = above;
      at = parent;
    }
    items[at] = item;
  }

  /** Takes the earliest event. */
  pop(): T | null {
    const { items } = this;
    const first = items[0];
    const last = items.pop();
    if (first === undefined || last === undefined) return null;
    if (items.length > 0) this.sink(last);
    return first.value;
  }

  private sink(item: { readonly time: number; readonly order: number; readonly value: T }): void {
    const { items } = this;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= items.length) break;
      const right = child + 1;
      if (right < items.length && isBefore(items[right] as typeof item, items[child] as typeof item)) child = right;
      const below = items[child] as typeof item;
      if (!isBefore(below, item)) break;
      items[at] = below;
      at = child;
    }
    items[at] = item;
  }
}

function isBefore(a: { time: number; order: number }, b: { time: number; order: number }): boolean {
  return a.time < b.time || (a.time === b.time && a.order < b.order);
}
