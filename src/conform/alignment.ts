/**
 * The longest common subsequence of two lists, by Hunt and Szymanski's method: it costs a little for each pair of equal elements, and
 * in a trace most elements occur once.
 *
 * Equal ends are taken off first: two runs of one workload mostly agree, and the first difference is then where a reader would see it.
 */

/** A pair of equal elements, by their places. */
export type Match = readonly [left: number, right: number];

/**
 * Beyond this many equal pairs the alignment is only made along elements that are rarer; what lies between is matched greedily. Lists
 * that reach it hold thousands of equal lines in one operation.
 */
const PAIRS_MAX = 4_000_000;

/** @returns the matches in ascending order of both places */
export function align(left: readonly string[], right: readonly string[]): readonly Match[] {
  let start = 0;
  while (start < left.length && start < right.length && left[start] === right[start]) start++;
  let end = 0;
  const isSameEnd = () => left[left.length - 1 - end] === right[right.length - 1 - end];
  while (end < left.length - start && end < right.length - start && isSameEnd()) end++;
  const matches: Match[] = [];
  for (let at = 0; at < start; at++) matches.push([at, at]);
  const middle = alignMiddle(left.slice(start, left.length - end), right.slice(start, right.length - end));
  for (const [i, j] of middle) matches.push([i + start, j + start]);
  for (let back = end; back > 0; back--) matches.push([left.length - back, right.length - back]);
  return matches;
}

function alignMiddle(left: readonly string[], right: readonly string[]): readonly Match[] {
  if (left.length === 0 || right.length === 0) return [];
  const places = placesOf(right);
  const occurrences = placesOf(left);
  const pairsOf = (text: string) => (places.get(text)?.length ?? 0) * (occurrences.get(text)?.length ?? 0);
  const costs = [...occurrences.keys()].map(pairsOf).sort((a, b) => a - b);
  let total = 0;
  let limit = 0;
  for (const cost of costs) {
    total += cost;
    if (total > PAIRS_MAX) break;
    limit = cost;
  }
  const anchors = longestChain(left, (text) => (pairsOf(text) <= limit ? (places.get(text) ?? []) : []));
  return total > PAIRS_MAX ? fillGaps(left, right, anchors) : anchors;
}

function placesOf(list: readonly string[]): Map<string, number[]> {
  const places = new Map<string, number[]>();
  list.forEach((text, at) => {
    const known = places.get(text);
    if (known === undefined) places.set(text, [at]);
    else known.push(at);
  });
  return places;
}

interface Link {
  readonly match: Match;
  readonly before: Link | null;
}

/** The longest chain of matches ascending on both sides: patience sorting over the right places, taken in descending order for each left. */
function longestChain(left: readonly string[], placesOnRight: (text: string) => readonly number[]): readonly Match[] {
  /** tops[n]: the chain of n+1 matches whose last right place is smallest. */
  const tops: Link[] = [];
  left.forEach((text, i) => {
    const places = placesOnRight(text);
    for (let at = places.length - 1; at >= 0; at--) {
      const j = places[at] as number;
      const n = firstNotBelow(tops, j);
      if (tops[n]?.match[1] === j) continue;
      tops[n] = { match: [i, j], before: tops[n - 1] ?? null };
    }
  });
  const chain: Match[] = [];
  for (let link = tops.at(-1) ?? null; link !== null; link = link.before) chain.push(link.match);
  return chain.reverse();
}

/** The first chain whose last right place is not below `j`. */
function firstNotBelow(tops: readonly Link[], j: number): number {
  let low = 0;
  let high = tops.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((tops[middle] as Link).match[1] < j) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Between two anchors, takes for each left element the first right one that is equal and still free. */
function fillGaps(left: readonly string[], right: readonly string[], anchors: readonly Match[]): readonly Match[] {
  const matches: Match[] = [];
  let [i, j] = [0, 0];
  for (const anchor of [...anchors, [left.length, right.length] as Match]) {
    while (i < anchor[0] && j < anchor[1]) {
      const found = right.indexOf(left[i] as string, j);
      if (found >= 0 && found < anchor[1]) {
        matches.push([i, found]);
        j = found + 1;
      }
      i++;
    }
    if (anchor[0] < left.length) matches.push(anchor);
    [i, j] = [anchor[0] + 1, anchor[1] + 1];
  }
  return matches;
}
