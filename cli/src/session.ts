/**
 * Finds the service and the caller's credentials, and runs one command with a client.
 *
 * - Each setting comes from its flag, else its variable, else the profile in use.
 * - Who signs in has a profile with an issuer in place of a token file (`signed-in.ts`).
 * - A given token is never combined with a certificate from a profile, nor the other way round: the
 *   service refuses both unless they are bound.
 * - A file that another user could have changed is never used, since it decides where plaintext
 *   goes.
 */
import { readFileSync } from 'node:fs';
import type { Command } from 'commander';
import {
  type ConnectOptions,
  connect,
  type KeywardClient,
  KeywardError,
  type StepUp,
} from 'keyward-client';
import { refuseOthersCredentials, requireAllowed } from './allowed.ts';
import { troubleOnTheWay } from './doctor/reach.ts';
import { fileTrouble, noteAsked, UsageError, unreached } from './failures.ts';
import { type GlobalOptions, optionsOf } from './globals.ts';
import {
  type Profile,
  type Profiles,
  profileOf,
  readProfiles,
  refuseOthersFile,
  SETTINGS,
  type Setting,
  type Settings,
  SIGN_IN_SETTINGS,
} from './profiles.ts';
import { type SignedIn, signedInBy } from './signed-in.ts';

/** Fewer than a program's: a person at a terminal wants to know soon. */
const RETRIES = 2;

const CERTIFICATE = ['certFile', 'keyFile'] as const;
const FILES = ['caFile', 'certFile', 'keyFile', 'tokenFile'] as const;
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
  { retries = RETRIES }: { readonly retries?: number } = {},
): Promise<void> {
  const options = optionsOf<Options>(command);
  const { settings, signedIn } = connectionOf(options);
  const { tenant, ...reached } = settings;
  const keyward = connected({
    ...reached,
    ...(signedIn === undefined ? callerOf(settings) : await callerBy(signedIn)),
    defaultTimeoutMs: options.timeout,
    retries,
  });
  try {
    await work(keyward, {
      ...(tenant !== undefined && { tenant: { name: tenant, isGiven: false } }),
      ...options,
    });
  } catch (error) {
    noteAsked(error, namedBy(command));
    throw await explained(error, settings, options);
  } finally {
    keyward.close();
  }
}

/** How long each step may take to find out why the service cannot be reached. */
const DIAGNOSIS_MS = 3_000;

/** What keeps the service from being reached, in the doctor's words; any other error as it is. */
async function explained(
  error: unknown,
  settings: Connection['settings'],
  { timeout }: GlobalOptions,
): Promise<unknown> {
  if (!(error instanceof KeywardError) || !unreached(error)) return error;
  const { code } = error;
  const trouble = await troubleOnTheWay(settings, Math.min(timeout, DIAGNOSIS_MS));
  const message = `${trouble ?? error.message}; "keyward doctor" shows more`;
  return new KeywardError({ code, message, cause: error });
}

/** Arguments that name nothing in the service. */
const NO_RESOURCE: readonly string[] = ['bytes', 'folder', 'file', 'paths', 'receiver'];

/** What in the service the user named: by the first argument, else by `--key`. */
function namedBy(command: Command): string | undefined {
  const [argument] = command.registeredArguments;
  const isResource = argument !== undefined && !NO_RESOURCE.includes(argument.name());
  return isResource ? command.args[0] : command.opts<{ readonly key?: string }>().key;
}

/** Returns a client of the service. Throws UsageError where there can be none. */
export function connected(options: ConnectOptions): KeywardClient {
  return usable(() => connect(options));
}

/** Returns what is made of the user's files. Throws UsageError where that cannot be. */
function usable<T>(make: () => T): T {
  try {
    return make();
  } catch (error) {
    const { path } = error as NodeJS.ErrnoException;
    if (path !== undefined)
      throw new UsageError(`cannot read ${path}: ${fileTrouble(error)}`, { cause: error });
    throw new UsageError((error as Error).message, { cause: error });
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

/** How a command reaches the service. */
export interface Connection {
  readonly settings: { address: string; caFile: string } & Settings;
  /** Where the profile in use is of a person who signs in, and nothing else was given. */
  readonly signedIn: SignedIn | undefined;
}

/** Returns how a command reaches the service. Throws UsageError. */
export function connectionOf(options: GlobalOptions): Connection {
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
  return {
    settings: settings as Connection['settings'],
    signedIn: signedInBy(settings, profiles?.file, profile?.name),
  };
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
  issuer,
}: Settings): Setting | undefined {
  if (address === undefined) return 'address';
  if (caFile === undefined) return 'caFile';
  const isProven = tokenFile !== undefined || issuer !== undefined;
  if (certFile === undefined && (keyFile !== undefined || !isProven)) return 'certFile';
  return certFile !== undefined && keyFile === undefined ? 'keyFile' : undefined;
}

/** What of a profile goes with what was given. */
function fittingTo(given: Settings, { ...rest }: Settings): Settings {
  const isCertified = CERTIFICATE.some((setting) => given[setting] !== undefined);
  if (given.tokenFile !== undefined) {
    for (const setting of CERTIFICATE) delete rest[setting];
  } else if (isCertified) {
    delete rest.tokenFile;
  }
  if (given.tokenFile !== undefined || isCertified)
    for (const setting of SIGN_IN_SETTINGS) delete rest[setting];
  for (const setting of SETTINGS) if (given[setting] !== undefined) delete rest[setting];
  return rest;
}

/** For files that were found, not named by the user. */
function refuseOthersFiles(settings: Settings): void {
  for (const setting of FILES) {
    const file = settings[setting];
    if (file !== undefined) refuseOthersFile(file, { secret: SECRETS.includes(setting) });
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
  usable(() => read(tokenFile));
  return { ...certificate, token: () => read(tokenFile) };
}

/** Asked once here, so that what is wrong with the sign-in is told before any call. */
async function callerBy(signedIn: SignedIn) {
  await signedIn.token();
  return {
    token: () => signedIn.token(),
    stepUp: (wanted: StepUp) => signedIn.stepUp(wanted),
  };
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
