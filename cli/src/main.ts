#!/usr/bin/env node
/**
 * Runs the `keyward` command, and ends with an exit code.
 */
import { runProgram } from './program.ts';

/** No top-level `await`: the bundled command is CommonJS, which has none. */
async function main(): Promise<void> {
  // Without listeners a reader that goes away would end the process with a stack trace; writers
  // handle the error.
  process.stdout.on('error', () => {});
  process.stderr.on('error', () => {});
  await runProgram();
  // All is written. A connection that the network never answers would keep the process for minutes.
  process.exit();
}

void main();
