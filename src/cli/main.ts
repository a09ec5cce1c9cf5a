#!/usr/bin/env node
/**
 * racewalk's command line.
 *
 * This file only prepares the process; what is needed of Node must be there before anything else is imported, because source maps count from
 * then on (reports name lines of the .ts sources), and an older Node could not even link the rest.
 */
import process from "node:process";

/** The oldest Node that runs racewalk. */
const NODE_MAJOR = 24;
/** Unusable input or usage. */
const UNUSABLE = 2;

async function main(): Promise<number> {
  if (Number(process.versions.node.split(".")[0]) < NODE_MAJOR) {
    process.stderr.write(`racewalk: node ${process.versions.node}: too old; install Node ${NODE_MAJOR} or newer\n`);
    return UNUSABLE;
  }
  const { setSourceMapsSupport } = await import("node:module");
  setSourceMapsSupport(true, { nodeModules: true });
  // A study may print; standard output is for the result only.
  console.log = console.error;
  console.info = console.error;
  console.debug = console.error;
  const { processTerminal, tolerateClosedPipes } = await import("./terminal.ts");
  const { runCommandLine } = await import("./command-line.ts");
  tolerateClosedPipes();
  return runCommandLine(process.argv.slice(2), processTerminal());
}

/** The process can end before its time in one way: by what a study does while it is loaded. */
function endedEarly(): void {
  process.stderr.write(
    `racewalk: ${process.argv[3] ?? ""}: ended the process, or waits for ever, while it was loaded; mend the study\n`,
  );
  process.exitCode = UNUSABLE;
}

process.once("exit", endedEarly);
void main().then((status) => {
  process.removeListener("exit", endedEarly);
  // Not before the output is out, and then at once, whatever timers a study has left behind.
  process.stdout.write("", () => process.exit(status));
});
