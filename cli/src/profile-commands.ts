/**
 * Adds `keyward profiles …`: lists, shows and changes the profiles to call with.
 *
 * - None of them calls the service, or shows the content of a key or token file.
 * - Only the user's own profiles are changed; a folder's are allowed or not, as they are.
 */
import { resolve } from 'node:path';
import type { Command } from 'commander';
import { allow, deny, isAllowed } from './allowed.ts';
import { UsageError } from './failures.ts';
import { printText } from './files.ts';
import { type GlobalOptions, optionsOf } from './globals.ts';
import type { Columns } from './output/output.ts';
import { printable } from './output/printable.ts';
import { PROFILE } from './output/resources.ts';
import { addProfile, chooseProfile, removeProfile } from './profile-edits.ts';
import {
  foldersFile,
  PROFILE_SETTINGS,
  type Profiles,
  profileOf,
  readFoldersProfiles,
  readProfiles,
  type Settings,
  SIGN_IN_SETTINGS,
  usersFile,
} from './profiles.ts';
import { givenBy, profileInUse } from './session.ts';

/** Adds `profiles`. */
export function addProfiles(program: Command): void {
  const profiles = program
    .command('profiles')
    .description('list the profiles, and add, choose and remove yours')
    .addHelpText('after', PROFILES_HELP)
    .action((_options, command: Command) => list(optionsOf(command)));
  profiles
    .command('list')
    .description('list the profiles, and which of them is used')
    .action((_options, command: Command) => list(optionsOf(command)));
  addShow(profiles);
  addAdd(profiles);
  profiles
    .command('use <name>')
    .description('make a profile of yours the default')
    .action(async (name: string) => {
      const file = await chooseProfile(name);
      await printText(`${name} is the default of ${file} now.\n`);
    });
  profiles
    .command('remove <name>')
    .description('remove a profile of yours; the files that it names stay')
    .action(async (name: string) => {
      const { file, wasDefault } = await removeProfile(name);
      const left = wasDefault ? ' No profile is the default now: "keyward profiles use".' : '';
      await printText(`Removed ${name} from ${file}.${left}\n`);
    });
  addAllow(profiles);
}

function foundProfiles(verb: string): Profiles {
  const profiles = readProfiles();
  if (profiles === undefined)
    throw new UsageError(
      `cannot ${verb}: there is no ${usersFile()}; make one with "keyward profiles add"`,
    );
  return profiles;
}

async function list(options: GlobalOptions): Promise<void> {
  const profiles = foundProfiles('list profiles');
  const used = profileInUse(options, profiles)?.name;
  const allowed = isAllowed(profiles);
  const { by } = givenBy(options);
  const { file } = profiles;
  const all = [...profiles.byName].map(([name, settings]) => ({
    name,
    used: name === used,
    ...settings,
  }));
  if (options.output.isData)
    return options.output.data({ file, allowed, profiles: all, overriddenBy: by });
  const head = [`Profiles of ${file}`];
  if (!allowed) head.push('You have not allowed them as they are: none is used');
  if (by.length > 0) head.push(`Used instead of a profile's settings: ${by.join(', ')}`);
  await options.output.table(PROFILE, all, `${head.map(printable).join('\n')}\n\n`);
}

const SETTING: Columns<{ readonly setting: string; readonly value: string }> = {
  SETTING: ({ setting }) => setting,
  VALUE: ({ value }) => value,
};

function addShow(profiles: Command): void {
  profiles
    .command('show [name]')
    .description('show what a profile has: the one that is used, or the one that is named')
    .action(async (name: string | undefined, _options, command: Command) => {
      const options = optionsOf(command);
      const found = foundProfiles('show a profile');
      const profile = profileOf(found, name ?? profileInUse(options, found)?.name);
      if (profile === undefined)
        throw new UsageError(
          `cannot show a profile: ${found.file} has no default; write keyward profiles show <name>`,
        );
      const { settings } = profile;
      if (options.output.isData)
        return options.output.data({ name: profile.name, file: found.file, ...settings });
      const rows = PROFILE_SETTINGS.flatMap((setting) => {
        const value = settings[setting];
        return value === undefined ? [] : [{ setting, value }];
      });
      await options.output.all(
        SETTING,
        [{ setting: 'name', value: profile.name }, ...rows],
        'settings',
      );
    });
}

interface AddOptions extends GlobalOptions {
  readonly use?: boolean;
  readonly force?: boolean;
}

/** The flags of what a person's profile has, which no call takes. */
const SIGN_IN_FLAGS: Readonly<Record<(typeof SIGN_IN_SETTINGS)[number], string>> = {
  issuer: '--issuer <url>',
  clientId: '--client-id <id>',
  scopes: '--scopes <scopes>',
  resource: '--resource <uri>',
  audience: '--audience <name>',
  redirectUri: '--redirect-uri <uri>',
};

function addAdd(profiles: Command): void {
  const add = profiles
    .command('add <name>')
    .description('make a profile of the flags that are given; the first becomes the default')
    .option('--use', 'make it the default')
    .option('--force', 'replace the profile of that name')
    .addHelpText('after', ADD_HELP);
  for (const setting of SIGN_IN_SETTINGS)
    add.option(SIGN_IN_FLAGS[setting], `${setting} of a person's profile; docs/people.md`);
  add.action(async (name: string, _options, command: Command) => {
    const { use = false, force = false, tenant, ...options } = optionsOf<AddOptions>(command);
    const settings: Settings = {};
    for (const setting of PROFILE_SETTINGS) {
      const value = setting === 'tenant' ? tenant?.name : options[setting];
      if (value !== undefined) settings[setting] = value;
    }
    const { file, isDefault } = await addProfile(name, settings, { use, force });
    const chosen = isDefault ? ', and it is the default' : '';
    await printText(`Added ${name} to ${file}${chosen}.\n`);
  });
}

const ADD_HELP = `
Files are kept by their full paths. Variables and other profiles are not looked at.

  keyward profiles add work --address keyward.example.com:7443 --ca-file ca.pem \\
    --token-file token --tenant acme
  keyward profiles add me --address keyward.example.com:7443 --ca-file ca.pem \\
    --issuer https://login.example.com --client-id keyward --use`;

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
      "work": { "address": "keyward.example.com:7443", "caFile": "ca.pem", "tokenFile": "token",
        "tenant": "acme" },
      "batch": { "address": "10.0.0.7:7443", "serverName": "keyward",
        "caFile": "ca.pem", "certFile": "batch.pem", "keyFile": "batch.key" }
    }
  }

Paths are relative to the file's folder. --profile or KEYWARD_PROFILE chooses a profile;
otherwise the default is used. Flags and variables take precedence over a profile. A token that
they name is never combined with a profile's certificate, nor a certificate with a profile's
token. A folder's profile gets no credentials from elsewhere. The command refuses a profiles, CA
or certificate file that others can change, and a key or token file that others can read.`;
