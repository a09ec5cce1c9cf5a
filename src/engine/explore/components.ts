/** Strongly connected components (Tarjan), without recursion. */

export interface ForwardEdges {
  /** Edges of state s are order[first[s]] to order[first[s+1]-1]. */
  readonly first: Int32Array;
  readonly order: Int32Array;
  /** Target of each edge. */
  readonly to: Int32Array;
}

/**
 * The component of each of `states` states; states of one component have the same number.
 * @param keep edges for which it is false are taken as absent
 */
export function components(states: number, edges: ForwardEdges, keep: (edge: number) => boolean): Int32Array {
  const component = new Int32Array(states).fill(-1);
  const number = new Int32Array(states).fill(-1);
  const low = new Int32Array(states);
  const cursor = new Int32Array(states);
  const stack: number[] = [];
  const path: number[] = [];
  let next = 0;
  for (let root = 0; root < states; root++) {
    if (number[root] !== -1) continue;
    path.push(root);
    while (path.length > 0) {
      const state = path.at(-1) as number;
      if (number[state] === -1) {
        number[state] = low[state] = next++;
        stack.push(state);
        cursor[state] = edges.first[state] ?? 0;
      }
      const child = nextChild(state);
      if (child >= 0) {
        path.push(child);
        continue;
      }
      path.pop();
      const parent = path.at(-1);
      if (parent !== undefined) low[parent] = Math.min(low[parent] as number, low[state] as number);
      if (low[state] === number[state]) close(state);
    }
  }
  return component;

  /** The next successor that has not been seen; -1 when all have. */
  function nextChild(state: number): number {
    const end = edges.first[state + 1] ?? 0;
    for (;;) {
      const k = cursor[state] as number;
      if (k >= end) return -1;
      cursor[state] = k + 1;
      const edge = edges.order[k] as number;
      if (!keep(edge)) continue;
      const to = edges.to[edge] as number;
      if (number[to] === -1) return to;
      if (component[to] === -1) low[state] = Math.min(low[state] as number, number[to] as number);
    }
  }

  function close(state: number): void {
    for (;;) {
      const member = stack.pop() as number;
      component[member] = state;
      if (member === state) return;
    }
  }
}
