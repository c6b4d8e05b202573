/**
 * Adds `keyward whoami`: the caller.
 */
import type { Command } from 'commander';
import { CALLER } from './output/resources.ts';
import { withClient } from './session.ts';

/** Adds `whoami`. */
export function addWhoami(program: Command): void {
  program
    .command('whoami')
    .description('show your name as role bindings use it, and how you proved it; anyone may ask')
    .action((_options, command: Command) =>
      withClient(command, async (keyward, { output }) => {
        await output.one(CALLER, await keyward.getCaller());
      }),
    );
}
