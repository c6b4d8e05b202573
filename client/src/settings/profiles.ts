/**
 * Reads profiles, named connections in a JSON file, and decides whether they can be trusted.
 *
 * - A file that another user could have changed is not used, since it decides where plaintext goes;
 *   nor is a key or token that another user could have read.
 * - Profiles that were found in a folder are marked as the folder's: `allowed.ts` says whether they
 *   may be used.
 * - A profile that is named must exist.
 */
import { readFileSync, realpathSync, type Stats, statSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileTrouble, SettingsError } from './errors.ts';

/** What a profile may have: where the service is, and the files of who calls. */
export const SETTINGS = [
  'address',
  'caFile',
  'certFile',
  'keyFile',
  'tokenFile',
  'serverName',
] as const;

/** One of {@link SETTINGS}. */
export type Setting = (typeof SETTINGS)[number];

/** What the profile of a person who signs in has besides: the provider, and what to ask of it. */
export const SIGN_IN_SETTINGS = [
  'issuer',
  'clientId',
  'scopes',
  'resource',
  'audience',
  'redirectUri',
] as const;

/** One of {@link SIGN_IN_SETTINGS}. */
export type SignInSetting = (typeof SIGN_IN_SETTINGS)[number];

/** The provider, and what to ask of it. */
export type SignInSettings = Readonly<
  Record<'issuer' | 'clientId', string> & Partial<Record<SignInSetting, string>>
>;

/** Some of them, files by their absolute paths; and the tenant of names that are not full. */
export type Settings = Partial<Record<Setting | SignInSetting | 'tenant', string>>;

/** What a profile may have. */
export const PROFILE_SETTINGS = [...SETTINGS, 'tenant', ...SIGN_IN_SETTINGS] as const;

/** What a caller proves their name with, where they do not sign in. */
export const CREDENTIALS = ['certFile', 'keyFile', 'tokenFile'] as const;

/** A file with profiles. */
export interface Profiles {
  readonly file: string;
  readonly text: string;
  /** The folder whose `.keyward` the file was found in, where the user named none and has none. */
  readonly folder: string | undefined;
  readonly byName: ReadonlyMap<string, Settings>;
  /** The name of the one that is used where none is named. */
  readonly defaultName: string | undefined;
}

/** A profile, and what it is called. */
export interface Profile {
  readonly name: string;
  readonly settings: Settings;
}

/**
 * KEYWARD_PROFILES, else the user's, else those of the current folder or the nearest one above that
 * has some.
 */
export function readProfiles(): Profiles | undefined {
  const given = process.env['KEYWARD_PROFILES'];
  if (given) return readProfilesFile(resolve(given));
  const users = usersFile();
  return isThere(users) ? readProfilesFile(users) : readFoldersProfiles(process.cwd());
}

/** The profiles of that folder, or of the nearest one above that has some. */
export function readFoldersProfiles(folder: string): Profiles | undefined {
  const file = foldersFile(folder);
  if (isThere(file)) return { ...readProfilesFile(realpathSync(file)), folder };
  const above = dirname(folder);
  return above === folder ? undefined : readFoldersProfiles(above);
}

/** Where a folder's profiles are, if it has any. */
export function foldersFile(folder: string): string {
  return join(folder, '.keyward', 'profiles.json');
}

/** The folder of what the user has configured. */
export function configurationFolder(): string {
  return join(process.env['XDG_CONFIG_HOME'] || join(homedir(), '.config'), 'keyward');
}

/** Returns the file of the user's own profiles, whether it is there or not. */
export function ownFile(): string {
  const given = process.env['KEYWARD_PROFILES'];
  return given ? resolve(given) : usersFile();
}

/** Where the user's own profiles are, if there are any. */
export function usersFile(): string {
  return join(configurationFolder(), 'profiles.json');
}

/**
 * The profile of that name, which must be there; the default, if there is any, where none is named.
 */
export function profileOf(
  profiles: Profiles | undefined,
  name: string | undefined,
): Profile | undefined {
  if (profiles === undefined) {
    if (name === undefined) return undefined;
    throw new SettingsError(`cannot use the profile ${name}: there is no ${usersFile()}`);
  }
  const wanted = name ?? profiles.defaultName;
  if (wanted === undefined) return undefined;
  const settings = profiles.byName.get(wanted);
  if (settings === undefined) {
    const names = [...profiles.byName.keys()].join(', ') || 'none';
    throw new SettingsError(
      `cannot use the profile ${wanted}: ${profiles.file} does not have it; it has ${names}`,
    );
  }
  return { name: wanted, settings };
}

/**
 * Throws SettingsError for a file that another user could have changed or, if it is secret, read.
 */
export function refuseOthersFile(
  file: string,
  { secret = false }: { readonly secret?: boolean } = {},
): void {
  const { uid, mode } = statOf(file);
  const self = process.getuid?.();
  if (self === undefined) return;
  if (uid !== self && uid !== 0)
    throw new SettingsError(`cannot use ${file}: it belongs to another user`);
  if ((mode & 0o022) !== 0)
    throw new SettingsError(`cannot use ${file}: others can change it; chmod go-w it`);
  if (secret && (mode & 0o077) !== 0)
    throw new SettingsError(`cannot use ${file}: others can read it; chmod 600 it`);
}

function isThere(file: string): boolean {
  return statSync(file, { throwIfNoEntry: false }) !== undefined;
}

function statOf(file: string): Stats {
  try {
    return statSync(file);
  } catch (error) {
    throw new SettingsError(`cannot read ${file}: ${fileTrouble(error)}`, { cause: error });
  }
}

/** `{"default": "…", "profiles": {"…": {…}}}`. */
function readProfilesFile(file: string): Profiles {
  refuseOthersFile(file);
  return profilesIn(file, readText(file));
}

/** Returns the profiles that a file with this text has. Throws SettingsError for a text without. */
export function profilesIn(file: string, text: string): Profiles {
  const content = parseJson(file, text);
  const { default: defaultName, profiles, ...rest } = isObject(content) ? content : {};
  const [unknown] = Object.keys(rest);
  if (unknown !== undefined)
    throw new SettingsError(`cannot use ${file}: it has ${unknown}, which is not known`);
  if (!isObject(profiles))
    throw new SettingsError(
      `cannot use ${file}: it lacks profiles; write {"profiles": {"name": {…}}}`,
    );
  if (defaultName !== undefined && typeof defaultName !== 'string')
    throw new SettingsError(`cannot use ${file}: default must be the name of a profile`);
  const entries = Object.entries(profiles).map(
    ([name, profile]) => [name, readSettings(profile, file, `profile ${name} in ${file}`)] as const,
  );
  return { file, text, folder: undefined, byName: new Map(entries), defaultName };
}

function readText(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    throw new SettingsError(`cannot read ${file}: ${fileTrouble(error)}`, { cause: error });
  }
}

/** Returns the content of a JSON file. Throws SettingsError for a text that is not JSON. */
export function parseJson(file: string, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new SettingsError(`cannot read ${file}: ${(error as Error).message}`, { cause: error });
  }
}

/**
 * Settings as a JSON file has them, the paths of files relative to its folder; `what` names them in
 * a SettingsError.
 */
function readSettings(content: unknown, file: string, what: string): Settings {
  if (!isObject(content)) throw new SettingsError(`cannot use ${what}: it must be an object`);
  const settings: Settings = {};
  for (const [name, value] of Object.entries(content)) {
    const setting = PROFILE_SETTINGS.find((each) => each === name);
    if (setting === undefined)
      throw new SettingsError(
        `cannot use ${what}: it has ${name}, which is not known; known are ` +
          PROFILE_SETTINGS.join(', '),
      );
    if (typeof value !== 'string' || value === '')
      throw new SettingsError(`cannot use ${what}: its ${name} must be a string`);
    settings[setting] = setting.endsWith('File') ? resolve(dirname(file), value) : value;
  }
  const trouble = signInTrouble(settings);
  if (trouble !== undefined) throw new SettingsError(`cannot use ${what}: ${trouble}`);
  return settings;
}

/** What is wrong with the settings of a person who signs in. */
function signInTrouble(settings: Settings): string | undefined {
  const [named] = SIGN_IN_SETTINGS.filter((setting) => settings[setting] !== undefined);
  if (named === undefined) return undefined;
  for (const setting of ['issuer', 'clientId'] as const)
    if (settings[setting] === undefined) return `it has ${named}, but no ${setting}`;
  const other = CREDENTIALS.find((setting) => settings[setting] !== undefined);
  if (other !== undefined) return `it has both issuer and ${other}; a caller proves one name`;
  const { scopes } = settings;
  return scopes === undefined || scopes.split(' ').includes('openid')
    ? undefined
    : 'its scopes must have openid';
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
