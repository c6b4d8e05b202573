/**
 * Which folders' profiles the user has allowed.
 *
 * - A folder's profiles may have come with it, as in a clone, and they decide where plaintext goes:
 *   they are used only where the user has allowed them ("keyward profiles allow").
 * - What is allowed is a path with its content: that of the profiles, and of each CA file that they
 *   name. When it changes, it is to be allowed again.
 * - A folder's profiles bring their own credentials, from inside the folder, or none.
 */
import { createHash } from 'node:crypto';
import { readFileSync, realpathSync } from 'node:fs';
import { join, sep } from 'node:path';
import { fileTrouble, SettingsError } from './errors.ts';
import {
  CREDENTIALS,
  configurationFolder,
  type Profile,
  type Profiles,
  parseJson,
  refuseOthersFile,
  type Settings,
} from './profiles.ts';

/** What decides who gets what is sent. */
const DESTINATION = ['address', 'caFile', 'serverName'] as const;

/** Returns whether they may be used: always, unless they are a folder's. */
export function isAllowed(profiles: Profiles): boolean {
  return profiles.folder === undefined || readAllowed()[profiles.file] === digestOf(profiles);
}

/** Throws SettingsError for a folder's profiles that the user has not allowed as they are. */
export function requireAllowed(profiles: Profiles): void {
  if (isAllowed(profiles)) return;
  const { file, folder = '' } = profiles;
  const why =
    file in readAllowed() ? 'it has changed since you allowed it' : 'you have not allowed it';
  throw new SettingsError(
    `cannot use ${file}: ${why}; see what it has with "keyward profiles", then allow it with ` +
      `"keyward profiles allow ${quoted(folder)}"`,
  );
}

/**
 * Throws SettingsError where a folder's profile would get credentials from elsewhere: those that
 * flags and variables name, unless they also say where to, and files outside of the folder.
 */
export function refuseOthersCredentials(
  profile: Profile & { readonly folder: string },
  given: Settings,
  added: Settings,
): void {
  const { folder, name } = profile;
  const where = DESTINATION.filter((setting) => added[setting] !== undefined);
  const named = CREDENTIALS.find((setting) => given[setting] !== undefined);
  if (named !== undefined && where.length > 0)
    throw new SettingsError(
      `cannot use ${given[named]} with the profile ${name} of ${folder}: a folder's profile does ` +
        'not decide where other credentials are sent; give the address and the CA file, too, or ' +
        'a profile of your own',
    );
  for (const setting of CREDENTIALS) {
    const file = added[setting];
    if (file !== undefined && !isInside(folder, file))
      throw new SettingsError(
        `cannot use the profile ${name} of ${folder}: its ${setting}, ${file}, is outside of ` +
          'that folder',
      );
  }
}

function isInside(folder: string, file: string): boolean {
  try {
    return realpathSync(file).startsWith(realpathSync(folder) + sep);
  } catch (error) {
    throw new SettingsError(`cannot read ${file}: ${fileTrouble(error)}`, { cause: error });
  }
}

/** Returns what is remembered of profiles that are allowed. */
export function digestOf({ text, byName }: Profiles): string {
  const files = [...byName.values()].flatMap(({ caFile }) => caFile ?? []);
  const parts = [text, ...files.map(contentOf)].map(sha256);
  return sha256(JSON.stringify(parts));
}

/** A file that is not there has the content of an empty one: no CA can be used of either. */
function contentOf(file: string): Buffer {
  try {
    return readFileSync(file);
  } catch {
    return Buffer.alloc(0);
  }
}

function sha256(content: string | Buffer): string {
  return createHash('sha256').update(content).digest('hex');
}

/** Where it is remembered. */
export function allowedFile(): string {
  return join(configurationFolder(), 'allowed.json');
}

/** Returns the digests of what is allowed, by the paths of profiles. */
export function readAllowed(): Readonly<Record<string, unknown>> {
  const file = allowedFile();
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return {};
    throw new SettingsError(`cannot read ${file}: ${fileTrouble(error)}`, { cause: error });
  }
  refuseOthersFile(file);
  const allowed = parseJson(file, text);
  return typeof allowed === 'object' && allowed !== null ? { ...allowed } : {};
}

/** Returns the word quoted for a shell. */
function quoted(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}
