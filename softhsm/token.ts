/**
 * SoftHSM tokens for development and tests: each in a folder of its own, with its configuration and
 * its PIN.
 *
 * A SoftHSM token is nothing but files, so a copy of its folder is another token with the same
 * objects and PIN. A folder gets its name only when the token in it is whole. Knows nothing of what
 * the service keeps in a token.
 */
import { execFile } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, renameSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import { promisify } from 'node:util';
import { newSecret, readIfThere, writePrivate } from '../dev/files.ts';
import { findSoftHsm as find } from '../scripts/system-packages.js';

/** Where a token is, and how to get at it. */
export interface SoftHsmToken {
  /** The PKCS#11 library. */
  readonly modulePath: string;
  /** For SOFTHSM2_CONF. */
  readonly confFile: string;
  /** Holds the user PIN and nothing else; mode 0600. */
  readonly pinFile: string;
  readonly label: string;
}

/** The SoftHSM library's path; throws when it isn't installed. */
export function findSoftHsm(): string {
  const library = find();
  if (library === undefined)
    throw new Error('SoftHSM is not installed: libsofthsm2.so is in none of the usual places.');
  return library;
}

/** Finds the token in `directory`, or makes one with a random PIN; `label` has at most 32 bytes. */
export async function createSoftHsmToken(options: {
  directory: string;
  label: string;
}): Promise<SoftHsmToken> {
  const { directory, label } = options;
  if (!existsSync(directory)) {
    const unfinished = `${directory}.new`;
    rmSync(unfinished, { recursive: true, force: true });
    mkdirSync(join(unfinished, 'tokens'), { recursive: true, mode: 0o700 });
    const token = describeToken(unfinished, label);
    writePrivate(token.pinFile, newSecret());
    await initialise(token);
    renameSync(unfinished, directory);
  }
  return describeToken(directory, label);
}

/** Copies the token in folder `from` to folder `to`, which doesn't exist yet. */
export function copyToken(from: string, to: string, label: string): SoftHsmToken {
  cpSync(from, to, { recursive: true, errorOnExist: true, force: false });
  return describeToken(to, label);
}

/** The environment variables by which the service uses a token. */
export function tokenVariables(token: SoftHsmToken): Record<string, string> {
  return {
    KEYWARD_HSM_MODULE: token.modulePath,
    KEYWARD_HSM_TOKEN: token.label,
    KEYWARD_HSM_PIN_FILE: token.pinFile,
    KEYWARD_HSM_ENVIRONMENT: 'SOFTHSM2_CONF',
    SOFTHSM2_CONF: token.confFile,
  };
}

/** Writes the configuration for where the folder is now: it holds an absolute path. */
function describeToken(directory: string, label: string): SoftHsmToken {
  const confFile = join(directory, 'softhsm2.conf');
  const configuration = [
    `directories.tokendir = ${join(directory, 'tokens')}`,
    'objectstore.backend = file',
    'log.level = ERROR',
    'slots.removable = false',
    '',
  ].join('\n');
  if (readIfThere(confFile) !== configuration) writePrivate(confFile, configuration);
  return { modulePath: findSoftHsm(), confFile, pinFile: join(directory, 'pin'), label };
}

async function initialise(token: SoftHsmToken): Promise<void> {
  const program = join(import.meta.dirname, 'init-token.ts');
  const args = [program, token.modulePath, token.label, token.pinFile];
  const env = { PATH: process.env['PATH'], SOFTHSM2_CONF: token.confFile };
  try {
    await promisify(execFile)(process.execPath, args, { env });
  } catch (error) {
    throw new Error(`${basename(program)} could not initialise the token "${token.label}".`, {
      cause: error,
    });
  }
}
