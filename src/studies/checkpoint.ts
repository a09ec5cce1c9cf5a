/**
 * Checkpoints: a run on disk, from which another process goes on.
 *
 * A checkpoint holds for each cell the totals of the jobs that are done and the jobs that are not (cell-work.ts). Which jobs there are does
 * not depend on where a run was interrupted, so going on from a checkpoint gives what an undisturbed run gives. What was in work when the
 * process died is done again.
 *
 * The file is written beside its place and renamed, so that it is always whole. It names the racewalk, the study and the options that it is
 * for; with anything else it is refused, because totals of different programs do not add up.
 */
import { createHash } from "node:crypto";
import { closeSync, fsyncSync, openSync, readdirSync, readFileSync, renameSync, writeSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { z } from "zod";
import { UsageError } from "../engine/index.ts";
import type { SavedWork } from "./cell-work.ts";
import type { PlannedCell } from "./cells.ts";
import type { LoadedStudy } from "./load.ts";

/** Raised when what a checkpoint means changes. */
const FORMAT = 1;

/** What a checkpoint is for. */
export interface CheckpointKey {
  readonly version: string;
  readonly study: string;
  /** A digest of racewalk's own code and of the study's file. */
  readonly code: string;
  /** The cells, with how each is explored. */
  readonly plan: string;
}

export function checkpointKey(
  { source, study }: LoadedStudy,
  plan: readonly PlannedCell[],
  version: string,
): CheckpointKey {
  const cells = plan.map(({ variant, scenario, property, method }) => [variant, scenario, property, method]);
  return { version, study: study.id, code: digestOfCode(source.fileUrl), plan: JSON.stringify(cells) };
}

/** A checkpoint file that is kept up to date. */
export class Checkpoint {
  readonly path: string;
  private readonly key: CheckpointKey;
  private written = "";

  constructor(path: string, key: CheckpointKey) {
    this.path = path;
    this.key = key;
  }

  /** What an earlier run left; null when there is none. @throws UsageError when the file is for something else, or no checkpoint */
  read(): readonly SavedWork[] | null {
    const { path, key } = this;
    const text = this.readText();
    if (text === null) return null;
    const mend = "name another file, or delete it to begin anew";
    const head = HEAD.safeParse(parse(text));
    if (!head.success) throw new UsageError(`${path}: is no checkpoint of racewalk; ${mend}`);
    const { format, key: theirs } = head.data;
    const differs =
      format !== FORMAT || theirs.version !== key.version
        ? `was written by racewalk ${theirs.version}, this is ${key.version}`
        : theirs.study !== key.study
          ? `is for the study ${theirs.study}, not ${key.study}`
          : theirs.code !== key.code
            ? "was written before the study, or racewalk, was changed"
            : theirs.plan !== key.plan
              ? "was written with other options or variants"
              : null;
    if (differs !== null) throw new UsageError(`${path}: the checkpoint ${differs}; ${mend}`);
    const body = BODY.safeParse(parse(text));
    if (!body.success) throw new UsageError(`${path}: the checkpoint is damaged; ${mend}`);
    return body.data.cells as unknown as readonly SavedWork[];
  }

  /** Replaces what is on disk, unless it is the same. @throws UsageError when it cannot be written */
  write(cells: readonly SavedWork[]): void {
    const text = `${JSON.stringify({ racewalk: "checkpoint", format: FORMAT, key: this.key, cells })}\n`;
    if (text === this.written) return;
    const beside = `${this.path}.${process.pid}.tmp`;
    try {
      const file = openSync(beside, "w");
      try {
        writeSync(file, text);
        fsyncSync(file);
      } finally {
        closeSync(file);
      }
      renameSync(beside, this.path);
    } catch (error) {
      const { code = "" } = error as NodeJS.ErrnoException;
      throw new UsageError(`${this.path}: the checkpoint cannot be written (${code}); name a file that can`);
    }
    this.written = text;
  }

  private readText(): string | null {
    try {
      return readFileSync(this.path, "utf8");
    } catch (error) {
      const { code = "" } = error as NodeJS.ErrnoException;
      if (code === "ENOENT") return null;
      throw new UsageError(`${this.path}: the checkpoint cannot be read (${code}); name another file`);
    }
  }
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

const HEAD = z.object({
  racewalk: z.literal("checkpoint"),
  format: z.number(),
  key: z.object({ version: z.string(), study: z.string(), code: z.string(), plan: z.string() }),
});

const count = z.number().int().min(0);
const numbers = z.array(z.array(z.number().int()));
const steps = z.array(z.object({ lane: count, choice: count }));
const finding = z.object({
  property: z.string(),
  message: z.string(),
  switches: count,
  steps,
  schedule: z.string(),
  addr: count.optional(),
  decides: z.string().optional(),
  cycleFrom: count.optional(),
});
const totals = z.object({
  executions: count,
  blocked: count,
  waiting: count,
  stopped: count,
  leftOut: count,
  diverged: count,
  states: count,
  steps: count,
  lanesSeen: count,
  stepsSeen: count,
  partial: z.boolean(),
  findings: z.array(finding),
  facts: z.array(finding),
});
const job = z.discriminatedUnion("kind", [
  z.object({
    kind: z.literal("tree"),
    part: z.object({ turns: numbers, open: numbers }),
    generation: count,
    minimised: z.number().int(),
    known: z.record(z.string(), z.tuple([count, count])),
  }),
  z.object({ kind: z.literal("sample"), from: count, to: count }),
  z.object({ kind: z.literal("graph") }),
]);
const BODY = z.object({
  cells: z.array(
    z.object({
      totals,
      open: z.array(job),
      spawns: z.array(z.string()),
      alone: z.boolean(),
      seconds: z.number(),
      result: z.looseObject({ verdict: z.enum(["holds", "fails", "unknown"]) }).nullable(),
    }),
  ),
});

/** This file's folder is one of the floors' of racewalk's own code. */
const OWN_FOLDER = fileURLToPath(new URL("..", import.meta.url));

/** A digest of all that a verdict may depend on, as far as it is known: racewalk's code, and the study's file. */
function digestOfCode(studyUrl: string | null): string {
  const hash = createHash("sha256");
  const names = readdirSync(OWN_FOLDER, { recursive: true, encoding: "utf8" });
  for (const name of names.filter((file) => /(?<!\.test)\.[jt]s$/.test(file) && !file.endsWith(".d.ts")).sort()) {
    hash
      .update(name)
      .update("\0")
      .update(readFileSync(OWN_FOLDER + name))
      .update("\0");
  }
  if (studyUrl !== null) hash.update(readFileSync(fileURLToPath(studyUrl)));
  return hash.digest("hex").slice(0, 32);
}
