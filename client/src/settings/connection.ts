/**
 * Finds where the service is and who calls: by what is given, by variables, by the profile in use.
 *
 * - Each setting comes from what is given, else its variable, else the profile.
 * - A given token is never combined with a certificate from a profile, nor the other way round: the
 *   service refuses both unless they are bound.
 * - A file that another user could have changed is never used, since it decides where plaintext
 *   goes.
 */
import { readFileSync } from 'node:fs';
import { refuseOthersCredentials, requireAllowed } from './allowed.ts';
import { fileTrouble, SettingsError } from './errors.ts';
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

const CERTIFICATE = ['certFile', 'keyFile'] as const;
const FILES = ['caFile', 'certFile', 'keyFile', 'tokenFile'] as const;
const SECRETS: readonly Setting[] = ['keyFile', 'tokenFile'];

const VARIABLES: Readonly<Record<Setting, string>> = {
  address: 'KEYWARD_ADDRESS',
  caFile: 'KEYWARD_CA_FILE',
  certFile: 'KEYWARD_CERT_FILE',
  keyFile: 'KEYWARD_KEY_FILE',
  tokenFile: 'KEYWARD_TOKEN_FILE',
  serverName: 'KEYWARD_SERVER_NAME',
};

/** What is given: settings, and the name of a profile. */
export type Given = Readonly<Partial<Record<Setting, string>>> & { readonly profile?: string };

/** How each setting is given, as the reader of an error knows it: `--ca-file`. */
export type Spelling = Readonly<Record<Setting, string>>;

/** Settings that a connection can be made with. */
export type UsableSettings = { address: string; caFile: string } & Settings;

/** Returns what is given and what variables say, whatever a profile has, and which of them do. */
export function settingsGiven(
  given: Given,
  spelling: Spelling,
): { readonly settings: Settings; readonly by: string[] } {
  const settings: Settings = {};
  const by: string[] = [];
  for (const setting of SETTINGS) {
    const value = given[setting] ?? process.env[VARIABLES[setting]];
    if (value === undefined || value === '') continue;
    settings[setting] = value;
    by.push(given[setting] === undefined ? VARIABLES[setting] : spelling[setting]);
  }
  return { settings, by };
}

/** Returns the profile of them that is used: the one that is named, else the default. */
export function profileUsed(given: Given, profiles: Profiles | undefined): Profile | undefined {
  return needsProfile(given) ? profileOf(profiles, nameOf(given)) : undefined;
}

/**
 * Returns how to reach the service, the profile in use, and the file that it is in. Throws
 * SettingsError.
 */
export function findConnection(
  given: Given,
  spelling: Spelling,
): {
  readonly settings: UsableSettings;
  readonly profile: Profile | undefined;
  readonly file: string | undefined;
} {
  const { settings: own } = settingsGiven(given, spelling);
  const profiles = needsProfile(given) ? readProfiles() : undefined;
  if (profiles !== undefined) requireAllowed(profiles);
  const profile = profileUsed(given, profiles);
  const added = fittingTo(own, profile?.settings ?? {});
  if (profile !== undefined && profiles?.folder !== undefined)
    refuseOthersCredentials({ ...profile, folder: profiles.folder }, own, added);
  refuseOthersFiles(added);
  const settings: Settings = { ...added, ...own };
  const lacking = lackingOf(settings);
  if (lacking !== undefined) throw new SettingsError(lacks(lacking, spelling, profile));
  return { settings: settings as UsableSettings, profile, file: profiles?.file };
}

/** Returns where the service is, as `connect` takes it. */
export function placeOf({ address, caFile, serverName }: UsableSettings) {
  return { address, caFile, ...(serverName !== undefined && { serverName }) };
}

/**
 * Returns what a caller proves their name with, as `connect` takes it. A token is read when it is
 * needed, and again when it was refused: something may renew the file. Throws SettingsError for one
 * that can't be read now.
 */
export function credentialsOf({ certFile, keyFile, tokenFile }: Settings) {
  const certificate =
    certFile === undefined || keyFile === undefined ? undefined : { certFile, keyFile };
  if (tokenFile === undefined) return certificate as NonNullable<typeof certificate>;
  readToken(tokenFile);
  return { ...certificate, token: () => readToken(tokenFile) };
}

function readToken(file: string): string {
  try {
    return readFileSync(file, 'utf8').trim();
  } catch (error) {
    throw new SettingsError(`cannot read ${file}: ${fileTrouble(error)}`, { cause: error });
  }
}

/** Whether one is named, or the rest does not say all that there is to say. */
function needsProfile(given: Given): boolean {
  const { settings } = settingsGiven(given, VARIABLES);
  return nameOf(given) !== undefined || lackingOf(settings) !== undefined;
}

function nameOf({ profile }: Given): string | undefined {
  return profile ?? (process.env['KEYWARD_PROFILE'] || undefined);
}

/** The first setting without which there is no connection, or half a certificate. */
function lackingOf(settings: Settings): Setting | undefined {
  const { address, caFile, certFile, keyFile, tokenFile, issuer } = settings;
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

function lacks(setting: Setting, spelling: Spelling, profile: Profile | undefined): string {
  if (profile !== undefined)
    return (
      `cannot connect: the profile ${profile.name} lacks ${setting}; add it, or give ` +
      spelling[setting]
    );
  return (
    `cannot connect: no ${setting} is given; give ${spelling[setting]}, set ` +
    `${VARIABLES[setting]}, name a profile (keyward profiles), or work in a folder with a ` +
    'running development service (npm start)'
  );
}
