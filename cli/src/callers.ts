/**
 * Adds `keyward whoami` and `keyward profiles`: the caller, and the profiles to call with.
 *
 * - `whoami` calls the service, `profiles` does not.
 * - Neither shows the content of a key or token file.
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
    .description('show your name as role bindings use it; every caller may ask')
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
    .description('list the profiles, and which of them is used')
    .addHelpText('after', PROFILES_HELP)
    .action(async (_options, command: Command) => {
      const options = command.optsWithGlobals<GlobalOptions>();
      const profiles = readProfiles();
      if (profiles === undefined)
        throw new UsageError(`cannot list profiles: there is no ${usersFile()}`);
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
      if (by.length > 0) head.push(`Used instead of a profile's settings: ${by.join(', ')}`);
      await printTable(PROFILE, all, `${head.map(printable).join('\n')}\n\n`);
    });
}

const PROFILES_HELP = `
Profiles are in the file that KEYWARD_PROFILES names, else in
$XDG_CONFIG_HOME/keyward/profiles.json, else in ~/.config/keyward/profiles.json, else in
.keyward/profiles.json in the current folder or the nearest one above.

  {
    "default": "work",
    "profiles": {
      "work": { "address": "keyward.example.com:7443", "caFile": "ca.pem", "tokenFile": "token" },
      "batch": { "address": "10.0.0.7:7443", "serverName": "keyward",
        "caFile": "ca.pem", "certFile": "batch.pem", "keyFile": "batch.key" }
    }
  }

Paths are relative to the file's folder. --profile or KEYWARD_PROFILE chooses a profile;
otherwise the default is used. Flags and variables take precedence over a profile. A token that
they name is never combined with a profile's certificate, nor a certificate with a profile's
token. The command refuses a profiles, CA or certificate file that others can change, and a key
or token file that others can read.`;
