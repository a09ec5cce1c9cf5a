/**
 * Which places of the heap may be touched, by page and by granule of 8 bytes: two looks at bytes that lie close together, where the way to an object's life
 * word takes three, the last one far off. For runs that are never taken back: life words are undone with the heap, and this is not.
 */
import { PAGE_SIZE } from "./heap.ts";

const GRANULE = 8;
/** Of a page: small objects are there, so that its granules tell. Of a granule: no object is there. */
const NOTHING = 0;
const LIVE = 1;
const DEAD = 2;

export class LivePlaces {
  private readonly pages: Uint8Array;
  private readonly granules: Uint8Array;

  constructor(heapBytes: number) {
    this.pages = new Uint8Array(heapBytes / PAGE_SIZE);
    this.granules = new Uint8Array(heapBytes / GRANULE);
  }

  /** Whether the object around `addr` lives. */
  has(addr: number): boolean {
    const page = this.pages[addr >>> 12] as number;
    return (page === NOTHING ? this.granules[addr >>> 3] : page) === LIVE;
  }

  /** An object that has pages of its own lives from here on, or does not. */
  setPages(addr: number, bytes: number, lives: boolean): void {
    this.pages.fill(lives ? LIVE : DEAD, addr / PAGE_SIZE, Math.ceil((addr + bytes) / PAGE_SIZE));
  }

  /** Any other object. */
  set(addr: number, bytes: number, lives: boolean): void {
    this.granules.fill(lives ? LIVE : DEAD, addr / GRANULE, Math.ceil((addr + bytes) / GRANULE));
  }
}

/** Of a world that does not keep them: nothing is noted. */
export const NO_PLACES = new LivePlaces(0);
