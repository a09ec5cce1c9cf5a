/**
 * Where output goes: results to standard output, everything else to standard error.
 */
import type { WriteStream } from "node:tty";
import picocolors from "picocolors";
import type { Paint } from "../report/text.ts";

export interface Terminal {
  /** Writes a part of the result. */
  result(text: string): void;
  /** Writes a line for the user. */
  say(line: string): void;
  /** Shows one line that the next call replaces; null takes it away. Does nothing where standard error is no terminal. */
  progress(line: string | null): void;
  /** True when somebody sees {@link progress}. */
  readonly showsProgress: boolean;
  readonly paint: Paint;
}

type Stream = NodeJS.WriteStream | WriteStream;

/** The terminal of this process. Colours only where a person looks at them, and NO_COLOR is not set. */
export function processTerminal(
  stdout: Stream = process.stdout,
  stderr: Stream = process.stderr,
  environment: NodeJS.ProcessEnv = process.env,
): Terminal {
  const wantsColour = (environment["NO_COLOR"] ?? "") === "" && environment["TERM"] !== "dumb";
  // Some terminals do not know their width and say 0.
  const columns = (): number => (stderr.columns || 80) - 1;
  return {
    result: (text) => void stdout.write(text),
    say: (line) => void stderr.write(`${line}\n`),
    progress: (line) => {
      if (stderr.isTTY) stderr.write(`\r\x1b[K${(line ?? "").slice(0, columns())}`);
    },
    showsProgress: stderr.isTTY,
    // A pipe has no isTTY at all, and undefined would leave the choice to the library.
    paint: picocolors.createColors(stdout.isTTY === true && wantsColour),
  };
}

/** A reader that has seen enough (`racewalk studies | head`) closes the pipe: that is no error. */
export function tolerateClosedPipes(): void {
  for (const stream of [process.stdout, process.stderr]) {
    stream.on("error", (error: NodeJS.ErrnoException) => {
      if (error.code !== "EPIPE") throw error;
    });
  }
}
