/**
 * Adds `keyward whoami` and `keyward profiles`: the caller, and the profiles to call with.
 *
 * - `whoami` calls the service, `profiles` does not.
 * - Neither shows the content of a key or token file.
 */
import { resolve } from 'node:path';
import type { Command } from 'commander';
import { allow, deny, isAllowed } from './allowed.ts';
import { printable, UsageError } from './failures.ts';
import { printText } from './files.ts';
import { CALLER, PROFILE, printJson, printOne, printTable } from './print.ts';
import {
  foldersFile,
  type Profiles,
  readFoldersProfiles,
  readProfiles,
  usersFile,
} from './profiles.ts';
import { type GlobalOptions, givenBy, profileInUse, withClient } from './session.ts';

/** Adds `whoami`. */
export function addWhoami(program: Command): void {
  program
    .command('whoami')
    .description('show your name as role bindings use it, and how you proved it; anyone may ask')
    .action((_options, command: Command) =>
      withClient(command, async (keyward, { output }) => {
        await printOne(output, CALLER, await keyward.getCaller());
      }),
    );
}

/** Adds `profiles`. */
export function addProfiles(program: Command): void {
  const profilesCommand = program
    .command('profiles')
    .description('list the profiles, and which of them is used');
  addAllow(profilesCommand);
  profilesCommand.addHelpText('after', PROFILES_HELP).action(async (_options, command: Command) => {
    const options = command.optsWithGlobals<GlobalOptions>();
    const profiles = readProfiles();
    if (profiles === undefined)
      throw new UsageError(`cannot list profiles: there is no ${usersFile()}`);
    const used = profileInUse(options, profiles)?.name;
    const allowed = isAllowed(profiles);
    const { by } = givenBy(options);
    const { file } = profiles;
    const all = [...profiles.byName].map(([name, settings]) => ({
      name,
      used: name === used,
      ...settings,
    }));
    if (options.output === 'json')
      return printJson({ file, allowed, profiles: all, overriddenBy: by });
    const head = [`Profiles of ${file}`];
    if (!allowed) head.push('You have not allowed them as they are: none is used');
    if (by.length > 0) head.push(`Used instead of a profile's settings: ${by.join(', ')}`);
    await printTable(PROFILE, all, `${head.map(printable).join('\n')}\n\n`);
  });
}

function addAllow(profiles: Command): void {
  profiles
    .command('allow [folder]')
    .description("allow the use of a folder's profiles, as they are now")
    .addHelpText('after', ALLOW_HELP)
    .action(async (folder: string | undefined) => {
      const found = foldersProfiles('allow', folder);
      await allow(found);
      const addresses = [...found.byName].map(
        ([name, { address = 'no address' }]) => `  ${printable(name)}: ${printable(address)}\n`,
      );
      await printText(`Allowed ${found.file}:\n${addresses.join('')}`);
    });
  profiles
    .command('deny [folder]')
    .description("forget that a folder's profiles were allowed")
    .action(async (folder: string | undefined) => {
      const found = foldersProfiles('deny', folder);
      await deny(found);
      await printText(`No longer allowed: ${found.file}\n`);
    });
}

/** The profiles of the folder, or of the nearest one from the current folder upward. */
function foldersProfiles(verb: string, folder: string | undefined): Profiles {
  const found = readFoldersProfiles(resolve(folder ?? '.'));
  if (found !== undefined && (folder === undefined || found.folder === resolve(folder)))
    return found;
  throw new UsageError(
    `cannot ${verb} profiles: there is no ${foldersFile(resolve(folder ?? '.'))}`,
  );
}

const ALLOW_HELP = `
A folder's profiles, .keyward/profiles.json, may have come with it, as in a clone, and they decide
where plaintext goes. They are used only if you have allowed them: without an argument, those of
the current folder or the nearest one above. When they change, or a CA file that they name does,
allow them again.`;

const PROFILES_HELP = `
Profiles are in the file that KEYWARD_PROFILES names, else in
$XDG_CONFIG_HOME/keyward/profiles.json, else in ~/.config/keyward/profiles.json, else in
.keyward/profiles.json in the current folder or the nearest one above, which you have to allow
("keyward profiles allow").

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
token. A folder's profile gets no credentials from elsewhere. The command refuses a profiles, CA
or certificate file that others can change, and a key or token file that others can read.`;
