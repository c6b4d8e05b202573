/**
 * Files of the development environment: private ones, whole ones, secrets.
 *
 * Every file appears under its name complete or not at all, and is readable by its owner alone
 * unless it says otherwise. Knows nothing of what is in them.
 */
import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';

/** The text of a file, or nothing when there is none. */
export function readIfThere(file: string): string | undefined {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
}

/**
 * What a JSON file holds, or nothing when there is none or it isn't JSON. The caller vouches for
 * its shape.
 */
export function readJsonIfThere<T>(file: string): T | undefined {
  const text = readIfThere(file);
  if (text === undefined) return undefined;
  try {
    return JSON.parse(text) as T;
  } catch {
    return undefined;
  }
}

/** Writes a file that only its owner can read, replacing it in one step. */
export function writePrivate(file: string, content: string): void {
  mkdirSync(dirname(file), { recursive: true, mode: 0o700 });
  const unfinished = `${file}.${randomBytes(6).toString('hex')}.new`;
  writeFileSync(unfinished, content, { mode: 0o600, flag: 'wx' });
  renameSync(unfinished, file);
}

/** Writes a value as JSON, as {@link writePrivate}. */
export function writePrivateJson(file: string, value: unknown): void {
  writePrivate(file, `${JSON.stringify(value, undefined, 2)}\n`);
}

/** Whether there is such a file or folder. */
export function exists(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false }) !== undefined;
}

/**
 * A random secret of 192 bits, in 32 characters that need no quoting in URLs, shells or
 * configuration files.
 */
export function newSecret(): string {
  return randomBytes(24).toString('base64url');
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ENOENT';
}
