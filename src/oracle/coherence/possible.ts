/**
 * Which translations a CPU may have, by what the guest's tables were since it last had to forget them (SDM volume 3, 4.10).
 *
 *     epoch    a stretch of time in which nothing was forgotten. Within it any entry on the way to an address may come from a paging-structure cache
 *              (4.10.3): each was read at some moment of the epoch, an upper one no later than the next one below it, and had its A flag set. The
 *              entry of a page makes a TLB entry (4.10.2), whose rights are those of all entries together, and which allows writes once D is set
 *
 *     MOV CR3       a new epoch; of the old ones only TLB entries of global pages stay (4.10.2.4, 4.10.4.1)
 *     INVLPG        a new epoch; TLB entries stay, but for those of the page that has the address, global or not (4.10.4.1)
 *     MOV CR4       PGE, PSE or PAE changed, SMEP set: everything is forgotten (4.10.4.1; of PSE AMD's manual, volume 2, 5.5.2)
 *     MOV CR0       PG changed: everything is forgotten
 *     page fault    the address itself is forgotten (4.10.4.1)
 *
 * What is not present, or has a reserved bit, is never cached (4.10.2.3): a fault that says so has read it just now. Without PCIDs.
 */
import type { ControlRegisters, GuestAction } from "../../machine/index.ts";
import type { GuestMemory, Version, Word } from "./guest-memory.ts";
import {
  bytesOfEntry,
  firstTable,
  offsetOfEntry,
  type PagingRules,
  type Rights,
  readEntry,
  rulesOf,
} from "./paging-rules.ts";

const PAGE = 4096;
const FOREVER = Number.POSITIVE_INFINITY;

/** A translation of one linear address that the CPU may use without setting a flag any more. */
export interface Translation extends Rights {
  readonly gpa: number;
  /** D is set in the page's entry. */
  readonly dirty: boolean;
  /** Every entry on the way has its A flag. Without it, the translation can only be one that is being made just now, and cannot be used. */
  readonly accessed: boolean;
  /** Level of the page's entry. */
  readonly level: number;
}

/** All that may come of an address. */
export interface Possible {
  readonly translations: readonly Translation[];
  /** An entry on the way may be found absent, or with a reserved bit. */
  readonly absent: boolean;
  readonly reserved: boolean;
}

/** What ended an epoch, and so which TLB entries outlived it. */
type Ending = { readonly kind: "cr3" } | { readonly kind: "invlpg"; readonly gva: number };

interface Epoch {
  readonly rules: PagingRules;
  readonly start: number;
  readonly root: number;
  /** PAE paging: the registers. */
  readonly pdptes: readonly Word[];
  end: number;
  ending: Ending | null;
}

/** A walk that has got to a table. */
interface Reading extends Rights {
  readonly table: number;
  /** The earliest moment at which it may have got there. */
  readonly time: number;
  readonly accessed: boolean;
}

interface Found {
  readonly translations: Translation[];
  absent: boolean;
  reserved: boolean;
}

const ALL: Rights = { writable: true, user: true, executable: true };
const CR4_PDPTE_BITS = (1 << 4) | (1 << 5) | (1 << 7) | (1 << 20);
const CR4_SMEP = 1 << 20;
const CR4_FLUSH_BITS = (1 << 4) | (1 << 5) | (1 << 7);
const PG = 31;

export class PossibleTranslations {
  private readonly memory: GuestMemory;
  private registers: ControlRegisters;
  private epochs: Epoch[];
  /** When a page fault made the CPU forget a page, by page number. */
  private readonly faults = new Map<number, number>();

  constructor(memory: GuestMemory, registers: ControlRegisters) {
    this.memory = memory;
    this.registers = registers;
    this.epochs = [this.newEpoch(this.readPdptes())];
  }

  /** How accesses are judged now. */
  get rules(): PagingRules {
    return (this.epochs.at(-1) as Epoch).rules;
  }

  // --- forgetting --------------------------------------------------------------------------------------------------

  /** The CPU has carried out a MOV to a control register, or an INVLPG. */
  retired(action: GuestAction): void {
    if (action.kind === "invlpg") this.begin({ kind: "invlpg", gva: action.gva }, this.pdptes());
    else if (action.kind === "mov-to-cr") this.moved(action.register, action.value);
  }

  faulted(gva: number): void {
    this.faults.set(Math.floor(gva / PAGE), this.memory.tick());
  }

  private moved(register: 0 | 3 | 4, value: number): void {
    const old = this.registers;
    this.registers = { ...old, [`cr${register}`]: value };
    if (register === 3) {
      this.begin({ kind: "cr3" }, this.readPdptes());
      return;
    }
    const changed = register === 0 ? old.cr0 ^ value : old.cr4 ^ value;
    const forgets =
      register === 0
        ? (changed >>> PG) % 2 === 1
        : (changed & CR4_FLUSH_BITS) !== 0 || (changed & value & CR4_SMEP) !== 0;
    const loads = register === 0 ? forgets : (changed & CR4_PDPTE_BITS) !== 0;
    if (forgets) {
      this.memory.tick();
      this.epochs = [this.newEpoch(this.readPdptes())];
      return;
    }
    // WP, SMEP and SMAP are asked when the translation is used: nothing is forgotten, and nothing read anew.
    const last = this.epochs.at(-1) as Epoch;
    const rules = rulesOf(this.registers);
    this.epochs = [...this.epochs.slice(0, -1), { ...last, rules, pdptes: loads ? this.readPdptes() : last.pdptes }];
  }

  private begin(ending: Ending, pdptes: readonly Word[]): void {
    const last = this.epochs.at(-1) as Epoch;
    last.end = this.memory.now;
    last.ending = ending;
    this.memory.tick();
    // Nothing of the old epochs outlives a MOV to CR3 where no page is global.
    if (ending.kind === "cr3" && !last.rules.pge) this.epochs = [];
    this.epochs.push(this.newEpoch(pdptes));
  }

  private newEpoch(pdptes: readonly Word[]): Epoch {
    const rules = rulesOf(this.registers);
    const root = firstTable(rules, this.registers.cr3);
    return { rules, start: this.memory.now, root, pdptes, end: FOREVER, ending: null };
  }

  private pdptes(): readonly Word[] {
    return (this.epochs.at(-1) as Epoch).pdptes;
  }

  /** MOV to CR3 loads the four PDPTE registers from memory (4.4.1). */
  private readPdptes(): readonly Word[] {
    const rules = rulesOf(this.registers);
    if (rules.levels !== 3) return [];
    const root = firstTable(rules, this.registers.cr3);
    return [0, 1, 2, 3].map((i) => {
      const place = this.memory.placeOf(root + 8 * i);
      return place === null ? { lo: 0, hi: 0 } : this.memory.current(place);
    });
  }

  // --- what may come of an address ---------------------------------------------------------------------------------

  of(gva: number): Possible {
    const found: Found = { translations: [], absent: false, reserved: false };
    const current = this.epochs.at(-1) as Epoch;
    if (current.rules.levels === 0) {
      found.translations.push({ ...ALL, gpa: gva, dirty: true, accessed: true, level: 1 });
      return found;
    }
    const forgotten = this.faults.get(Math.floor(gva / PAGE)) ?? 0;
    let isGlobalOnly = false;
    const invalidated: number[] = [];
    for (let i = this.epochs.length - 1; i >= 0; i--) {
      const epoch = this.epochs[i] as Epoch;
      if (epoch.ending?.kind === "cr3") isGlobalOnly = true;
      else if (epoch.ending?.kind === "invlpg") invalidated.push(epoch.ending.gva);
      const start = Math.max(epoch.start, forgotten);
      if (start > epoch.end) break;
      this.walk(epoch, gva, start, found, (level, global) => {
        if (isGlobalOnly && !(global && epoch.rules.pge)) return false;
        const bytes = bytesOfEntry(epoch.rules, level);
        return invalidated.every((each) => Math.floor(each / bytes) !== Math.floor(gva / bytes));
      });
    }
    return found;
  }

  /** @param outlives whether a TLB entry of that level, global or not, is still there */
  private walk(
    epoch: Epoch,
    gva: number,
    start: number,
    found: Found,
    outlives: (level: number, global: boolean) => boolean,
  ): void {
    const { rules } = epoch;
    const isCurrent = epoch.ending === null;
    let readings: Reading[] = [{ ...ALL, table: epoch.root, time: start, accessed: true }];
    for (let level: number = rules.levels; level > 0 && readings.length > 0; level--) {
      const below: Reading[] = [];
      for (const reading of readings) {
        for (const { word, time, isNow } of this.entriesAt(epoch, gva, level, reading)) {
          const entry = readEntry(rules, level, word);
          if (entry.kind === "absent" || entry.kind === "reserved") {
            if (isCurrent && isNow) found[entry.kind] = true;
            continue;
          }
          const { flags, address } = entry;
          // An entry without A was never cached: it is being read just now.
          if (!flags.accessed && !(isCurrent && isNow)) continue;
          const rights: Rights = {
            writable: reading.writable && flags.writable,
            user: reading.user && flags.user,
            executable: reading.executable && flags.executable,
          };
          const accessed = reading.accessed && flags.accessed;
          if (entry.kind === "table") {
            below.push({ ...rights, table: address, time: flags.accessed ? time : this.memory.now, accessed });
          } else if (outlives(level, flags.global)) {
            const gpa = address + (gva % bytesOfEntry(rules, level));
            found.translations.push({ ...rights, gpa, dirty: flags.dirty, accessed, level });
          }
        }
      }
      readings = below;
    }
  }

  /** What the entry of an address in a table may have been read as, and when at the earliest. */
  private *entriesAt(
    epoch: Epoch,
    gva: number,
    level: number,
    { table, time }: Reading,
  ): Generator<{ word: Word; time: number; isNow: boolean }> {
    const { rules } = epoch;
    if (rules.levels === 3 && level === 3) {
      yield { word: epoch.pdptes[Math.floor(gva / 2 ** 30) % 4] as Word, time, isNow: true };
      return;
    }
    const at = table + offsetOfEntry(rules, level, gva);
    const place = this.memory.placeOf(at);
    if (place === null) {
      // Nothing answers there: KVM takes such an entry for absent.
      yield { word: { lo: 0, hi: 0 }, time, isNow: true };
      return;
    }
    const upper = place % 8 !== 0;
    for (const version of this.memory.versionsOf(place - (place % 8))) {
      if (version.to <= time || version.from > epoch.end) continue;
      const word = rules.entryBytes === 8 ? version : halfOf(version, upper);
      yield { word, time: Math.max(time, version.from), isNow: version.to === FOREVER };
    }
  }

  // --- the tables as they are ----------------------------------------------------------------------------------------

  /** The entries that a walk for the address reads now, top down; the last one is that of a page, or leads nowhere. */
  entriesNow(gva: number): { readonly place: number; readonly isPage: boolean; readonly rights: Rights }[] {
    const { rules, root, pdptes } = this.epochs.at(-1) as Epoch;
    const places: { place: number; isPage: boolean; rights: Rights }[] = [];
    let table = root;
    let rights = ALL;
    for (let level: number = rules.levels; level > 0; level--) {
      let word: Word;
      if (rules.levels === 3 && level === 3) {
        word = pdptes[Math.floor(gva / 2 ** 30) % 4] as Word;
      } else {
        const place = this.memory.placeOf(table + offsetOfEntry(rules, level, gva));
        if (place === null) break;
        const whole = this.memory.current(place - (place % 8));
        word = rules.entryBytes === 8 ? whole : halfOf(whole, place % 8 !== 0);
        places.push({ place, isPage: false, rights });
      }
      const entry = readEntry(rules, level, word);
      if (entry.kind === "absent" || entry.kind === "reserved") break;
      rights = {
        writable: rights.writable && entry.flags.writable,
        user: rights.user && entry.flags.user,
        executable: rights.executable && entry.flags.executable,
      };
      if (entry.kind === "page") {
        const last = places.at(-1);
        if (last !== undefined) places.splice(-1, 1, { ...last, isPage: true, rights });
        break;
      }
      table = entry.address;
    }
    return places;
  }
}

function halfOf({ lo, hi }: Word | Version, upper: boolean): Word {
  return { lo: upper ? hi : lo, hi: 0 };
}
