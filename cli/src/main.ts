#!/usr/bin/env node
/**
 * Runs the `keyward` command, and ends with an exit code.
 */
import { report } from './failures.ts';
import { explained } from './help.ts';
import { type Format, isData } from './output/output.ts';
import { buildProgram } from './program.ts';

/** No top-level `await`: the bundled command is CommonJS, which has none. */
async function main(): Promise<void> {
  // Without listeners a reader that goes away would end the process with a stack trace; writers
  // handle the error.
  process.stdout.on('error', () => {});
  process.stderr.on('error', () => {});
  const program = buildProgram();
  try {
    await program.parseAsync();
  } catch (error) {
    const debug = Boolean(process.env['KEYWARD_DEBUG']);
    const { output } = program.opts<{ readonly output: Format }>();
    process.exitCode = report(explained(program, error), { asData: isData(output), debug });
  }
  // All is written. A connection that the network never answers would keep the process for minutes.
  process.exit();
}

void main();
