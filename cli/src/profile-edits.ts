/**
 * Changes the user's own profiles.
 *
 * - The file is KEYWARD_PROFILES, else that in the user's configuration folder; never a folder's.
 * - It is written whole, and only if it can be read again; what is not changed stays as it is.
 */
import { mkdirSync, readFileSync, realpathSync, statSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { UsageError } from './failures.ts';
import { writeOutput } from './files.ts';
import { ownFile, profilesIn, refuseOthersFile, type Settings } from './profiles.ts';

/** The file's own form. */
interface Content {
  default?: string;
  profiles: Record<string, Settings>;
}

/** Adds a profile. Throws UsageError for what is no profile, and for one that exists. */
export async function addProfile(
  name: string,
  settings: Settings,
  { use, force }: { readonly use: boolean; readonly force: boolean },
): Promise<{ readonly file: string; readonly isDefault: boolean }> {
  if (!/^[A-Za-z0-9][\w.@+-]{0,63}$/.test(name))
    throw new UsageError(
      `cannot add the profile ${name}: a name has up to 64 letters, digits and . _ @ + -, ` +
        'the first a letter or a digit',
    );
  if (Object.keys(settings).length === 0)
    throw new UsageError(
      `cannot add the profile ${name}: it would have nothing; give --address, --ca-file and what ` +
        'the caller proves their name with, as --token-file',
    );
  const { file, content } = read();
  if (Object.hasOwn(content.profiles, name) && !force)
    throw new UsageError(
      `cannot add the profile ${name}: ${file} already has it; give --force to replace it`,
    );
  const isFirst = Object.keys(content.profiles).length === 0;
  content.profiles[name] = withFullPaths(settings);
  if (use || isFirst) content.default = name;
  await write(file, content);
  return { file, isDefault: content.default === name };
}

/** Makes a profile the default, and returns the file that it is in. */
export async function chooseProfile(name: string): Promise<string> {
  const { file, content } = read();
  requireProfile(name, file, content, 'choose');
  await write(file, { ...content, default: name });
  return file;
}

/** Removes a profile. */
export async function removeProfile(
  name: string,
): Promise<{ readonly file: string; readonly wasDefault: boolean }> {
  const { file, content } = read();
  requireProfile(name, file, content, 'remove');
  const wasDefault = content.default === name;
  delete content.profiles[name];
  if (wasDefault) delete content.default;
  await write(file, content);
  return { file, wasDefault };
}

function requireProfile(
  name: string,
  file: string,
  { profiles }: Content,
  verb: 'choose' | 'remove',
): void {
  if (Object.hasOwn(profiles, name)) return;
  const names = Object.keys(profiles).join(', ') || 'none';
  throw new UsageError(
    `cannot ${verb} the profile ${name}: ${file} does not have it; it has ${names}`,
  );
}

/** The file behind a link is read and written, so that a link that the user made stays one. */
function read(): { readonly file: string; readonly content: Content } {
  const named = ownFile();
  if (statSync(named, { throwIfNoEntry: false }) === undefined)
    return { file: named, content: { profiles: {} } };
  const file = realpathSync(named);
  refuseOthersFile(file);
  const text = readFileSync(file, 'utf8');
  profilesIn(file, text);
  return { file, content: JSON.parse(text) };
}

async function write(file: string, content: Content): Promise<void> {
  const text = `${JSON.stringify(content, null, 2)}\n`;
  profilesIn(file, text);
  mkdirSync(dirname(file), { recursive: true, mode: 0o700 });
  await writeOutput(file, Buffer.from(text), { secret: true, force: true });
}

function withFullPaths(settings: Settings): Settings {
  const entries = Object.entries(settings).map(([setting, value]) => [
    setting,
    setting.endsWith('File') ? resolve(value) : value,
  ]);
  return Object.fromEntries(entries);
}
