/**
 * `keyward whoami` and `keyward profiles`: as whom the command calls, and as whom it could.
 *
 * Owns their words. `whoami` asks the service, `profiles` nobody; neither shows what is in a key or
 * token file.
 */
import type { Command } from 'commander';
import { printable, UsageError } from './failures.ts';
import { CALLER, PROFILE, printJson, printOne, printTable } from './print.ts';
import { readProfiles, usersFile } from './profiles.ts';
import { type GlobalOptions, givenBy, profileInUse, withClient } from './session.ts';

/** Adds `whoami`. */
export function addWhoami(program: Command): void {
  program
    .command('whoami')
    .description('show who you are to the service, as role bindings name you; anybody may ask')
    .action((_options, command: Command) =>
      withClient(command, async (keyward, { output }) => {
        await printOne(output, CALLER, await keyward.getCaller());
      }),
    );
}

/** Adds `profiles`. */
export function addProfiles(program: Command): void {
  program
    .command('profiles')
    .description('list the named connections, and which of them is used')
    .addHelpText('after', PROFILES_HELP)
    .action(async (_options, command: Command) => {
      const options = command.optsWithGlobals<GlobalOptions>();
      const profiles = readProfiles();
      if (profiles === undefined)
        throw new UsageError(`there are no profiles: there is no ${usersFile()}`);
      const used = profileInUse(options, () => profiles)?.name;
      const { by } = givenBy(options);
      const { file } = profiles;
      const all = [...profiles.byName].map(([name, settings]) => ({
        name,
        used: name === used,
        ...settings,
      }));
      if (options.output === 'json') return printJson({ file, profiles: all, overriddenBy: by });
      const head = [`Profiles of ${file}`];
      if (by.length > 0) head.push(`Used instead of what a profile says: ${by.join(', ')}`);
      await printTable(PROFILE, all, `${head.map(printable).join('\n')}\n\n`);
    });
}

const PROFILES_HELP = `
They are in the file that KEYWARD_PROFILES names, else in $XDG_CONFIG_HOME/keyward/profiles.json, else in
~/.config/keyward/profiles.json; without any of these in .keyward/profiles.json, looked for from the current folder upward.

  {
    "default": "work",
    "profiles": {
      "work": { "address": "keyward.example.com:7443", "caFile": "ca.pem", "tokenFile": "token" },
      "batch": { "address": "10.0.0.7:7443", "serverName": "keyward", "caFile": "ca.pem", "certFile": "batch.pem", "keyFile": "batch.key" }
    }
  }

Paths are relative to the file's folder. --profile names one, or KEYWARD_PROFILE; the default is used where neither does.
Flags and variables come before a profile; a token that they name is not put together with its certificate, nor the other
way round. A profiles, CA or certificate file that others can change is not used, nor a key or token file that others can
read.`;
