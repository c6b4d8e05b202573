/**
 * Finds the service and the caller's credentials, and runs one command with a client.
 *
 * - Each setting comes from its flag, else its variable, else the profile in use.
 * - A given token is never combined with a certificate from a profile, nor the other way round: the
 *   service refuses both unless they are bound.
 * - A file that another user could have changed is never used, since it decides where plaintext
 *   goes.
 */
import { readFileSync } from 'node:fs';
import type { Command } from 'commander';
import { connect, type KeywardClient } from 'keyward-client';
import { refuseOthersCredentials, requireAllowed } from './allowed.ts';
import { fileTrouble, UsageError } from './failures.ts';
import {
  type Profile,
  type Profiles,
  profileOf,
  readProfiles,
  refuseOthersFile,
  SETTINGS,
  type Setting,
  type Settings,
} from './profiles.ts';

/** The options that every command has. */
export interface GlobalOptions extends Settings {
  readonly output: 'table' | 'json';
  readonly profile?: string;
  /** Milliseconds. */
  readonly timeout: number;
}

const CERTIFICATE = ['certFile', 'keyFile'] as const;
const SECRETS: readonly Setting[] = ['keyFile', 'tokenFile'];

const SOURCES: Readonly<Record<Setting, { readonly flag: string; readonly variable: string }>> = {
  address: { flag: '--address', variable: 'KEYWARD_ADDRESS' },
  caFile: { flag: '--ca-file', variable: 'KEYWARD_CA_FILE' },
  certFile: { flag: '--cert-file', variable: 'KEYWARD_CERT_FILE' },
  keyFile: { flag: '--key-file', variable: 'KEYWARD_KEY_FILE' },
  tokenFile: { flag: '--token-file', variable: 'KEYWARD_TOKEN_FILE' },
  serverName: { flag: '--server-name', variable: 'KEYWARD_SERVER_NAME' },
};

/**
 * Gives `work` a client by the command's options, closed afterwards, and the options. `retries` is
 * for commands that are to outlast a service that is started again.
 */
export async function withClient<Options extends object>(
  command: Command,
  work: (keyward: KeywardClient, options: GlobalOptions & Options) => Promise<void>,
  { retries }: { readonly retries?: number } = {},
): Promise<void> {
  const options = command.optsWithGlobals<GlobalOptions & Options>();
  const settings = settingsOf(options);
  let keyward: KeywardClient;
  try {
    keyward = connect({
      ...settings,
      ...callerOf(settings),
      defaultTimeoutMs: options.timeout,
      ...(retries === undefined ? {} : { retries }),
    });
  } catch (error) {
    const { code, path } = error as NodeJS.ErrnoException;
    if (path !== undefined)
      throw new UsageError(`cannot read ${path}: ${fileTrouble(error)}`, { cause: error });
    const what = code?.startsWith('ERR_OSSL') ? 'cannot use the CA, certificate or key file: ' : '';
    throw new UsageError(what + (error as Error).message, { cause: error });
  }
  try {
    await work(keyward, options);
  } finally {
    keyward.close();
  }
}

/** What flags and variables say, whatever a profile has, and which of them do. */
export function givenBy(options: GlobalOptions): {
  readonly settings: Settings;
  readonly by: string[];
} {
  const settings: Settings = {};
  const by: string[] = [];
  for (const setting of SETTINGS) {
    const { flag, variable } = SOURCES[setting];
    const value = options[setting] ?? process.env[variable];
    if (value === undefined || value === '') continue;
    settings[setting] = value;
    by.push(options[setting] === undefined ? variable : flag);
  }
  return { settings, by };
}

/**
 * Whether a profile is needed: one is named, or flags and variables do not say all that there is to
 * say.
 */
function needsProfile(options: GlobalOptions): boolean {
  return nameOf(options) !== undefined || !isWhole(givenBy(options).settings);
}

function nameOf({ profile }: GlobalOptions): string | undefined {
  return profile ?? (process.env['KEYWARD_PROFILE'] || undefined);
}

/** Returns the profile of them that is used: the one that is named, else the default. */
export function profileInUse(
  options: GlobalOptions,
  profiles: Profiles | undefined,
): Profile | undefined {
  return needsProfile(options) ? profileOf(profiles, nameOf(options)) : undefined;
}

function settingsOf(options: GlobalOptions): { address: string; caFile: string } & Settings {
  const { settings: given } = givenBy(options);
  const profiles = needsProfile(options) ? readProfiles() : undefined;
  if (profiles !== undefined) requireAllowed(profiles);
  const profile = profileInUse(options, profiles);
  const added = fittingTo(given, profile?.settings ?? {});
  if (profile !== undefined && profiles?.folder !== undefined)
    refuseOthersCredentials({ ...profile, folder: profiles.folder }, given, added);
  refuseOthersFiles(added);
  const settings: Settings = { ...added, ...given };
  const lacking = lackingOf(settings);
  if (lacking !== undefined) throw new UsageError(lacks(lacking, profile));
  return settings as { address: string; caFile: string } & Settings;
}

function isWhole(settings: Settings): boolean {
  return lackingOf(settings) === undefined;
}

/** The first setting without which there is no connection, or half a certificate. */
function lackingOf({
  address,
  caFile,
  certFile,
  keyFile,
  tokenFile,
}: Settings): Setting | undefined {
  if (address === undefined) return 'address';
  if (caFile === undefined) return 'caFile';
  if (certFile === undefined && (keyFile !== undefined || tokenFile === undefined))
    return 'certFile';
  return certFile !== undefined && keyFile === undefined ? 'keyFile' : undefined;
}

/** What of a profile goes with what was given. */
function fittingTo(given: Settings, { ...rest }: Settings): Settings {
  if (given.tokenFile !== undefined) {
    for (const setting of CERTIFICATE) delete rest[setting];
  } else if (CERTIFICATE.some((setting) => given[setting] !== undefined)) {
    delete rest.tokenFile;
  }
  for (const setting of SETTINGS) if (given[setting] !== undefined) delete rest[setting];
  return rest;
}

/** For files that were found, not named by the user. */
function refuseOthersFiles({ address: _, serverName: __, ...files }: Settings): void {
  for (const [setting, file] of Object.entries(files)) {
    refuseOthersFile(file, { secret: SECRETS.includes(setting as Setting) });
  }
}

/**
 * A token is read when it is needed, and again when it was refused: something may renew the file.
 */
function callerOf({ certFile, keyFile, tokenFile }: Settings) {
  const read = (file: string) => readFileSync(file, 'utf8').trim();
  const certificate =
    certFile === undefined || keyFile === undefined ? undefined : { certFile, keyFile };
  if (tokenFile === undefined) return certificate as NonNullable<typeof certificate>;
  read(tokenFile);
  return { ...certificate, token: () => read(tokenFile) };
}

function lacks(setting: Setting, profile: Profile | undefined): string {
  const { flag, variable } = SOURCES[setting];
  if (profile !== undefined)
    return `cannot connect: the profile ${profile.name} lacks ${setting}; add it, or give ${flag}`;
  return (
    `cannot connect: no ${setting} is given; give ${flag}, set ${variable}, name a profile ` +
    '(keyward profiles), or work in a folder with a running development service (npm start)'
  );
}
