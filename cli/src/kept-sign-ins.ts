/**
 * Keeps what sign-ins gave: a file for each profile, in the user's configuration folder.
 *
 * - A file is written whole, only its owner can read it, and one that others can read is not used.
 * - What is kept is bound to what it was made for: the profile's address, CA and issuer, and all
 *   else that decides who gets the tokens. For another it is as if there were none.
 * - Who renews holds the file's lock, so that no refresh token is used twice.
 */
import { createHash, randomUUID } from 'node:crypto';
import { mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileTrouble, UsageError } from './failures.ts';
import { writeOutput } from './files.ts';
import { configurationFolder, parseJson, refuseOthersFile } from './profiles.ts';
import type { CallToken, Flow } from './sign-in.ts';

/** What is kept of a profile's sign-in. */
export interface KeptSignIn {
  readonly flow: Flow;
  readonly subject: string;
  /** The token of the sign-in that lasts; absent after a stronger one alone. */
  readonly token?: CallToken;
  readonly refreshToken?: string;
  /** Of a stronger sign-in: used until it expires, and never renewed. */
  readonly stronger?: CallToken;
}

/** What it is kept for: the same texts, or it is another's. */
export type Purpose = Readonly<Record<string, string>>;

interface Content extends KeptSignIn {
  readonly purpose: Purpose;
}

/** An older lock is taken for one that its holder left: renewing takes seconds. */
const STALE_LOCK_MS = 60_000;
const LOOK_MS = 50;

/** The file of one profile. */
export class SignInFile {
  readonly path: string;
  readonly #purpose: Purpose;

  /** `profilesFile` and `profile` name the profile. */
  constructor(profilesFile: string, profile: string, purpose: Purpose) {
    const id = createHash('sha256')
      .update(JSON.stringify([profilesFile, profile]))
      .digest('hex');
    const readable = profile.replaceAll(/[^\w-]+/g, '-').slice(0, 40);
    this.path = join(folder(), `${readable}-${id.slice(0, 16)}.json`);
    this.#purpose = purpose;
  }

  /** Returns what is kept for this purpose. Throws UsageError for a file that others can read. */
  read(): KeptSignIn | undefined {
    const content = this.#content();
    return content !== undefined && isSame(content.purpose, this.#purpose) ? content : undefined;
  }

  /** Returns what is kept, whatever for. */
  readAny(): KeptSignIn | undefined {
    return this.#content();
  }

  /** Replaces what is kept. */
  async write(kept: KeptSignIn): Promise<void> {
    const { flow, subject, token, refreshToken, stronger } = kept;
    const content = { purpose: this.#purpose, flow, subject, token, refreshToken, stronger };
    makeFolder();
    const bytes = Buffer.from(`${JSON.stringify(content, null, 2)}\n`);
    await writeOutput(this.path, bytes, { secret: true, force: true });
  }

  /** Removes it, if it is there. */
  remove(): void {
    rmSync(this.path, { force: true });
  }

  /** Does the work while no other command does any with this file. */
  async locked<T>(work: () => Promise<T>): Promise<T> {
    makeFolder();
    const lock = `${this.path}.lock`;
    while (!isTaken(lock)) {
      dropStale(lock);
      await sleep(LOOK_MS);
    }
    try {
      return await work();
    } finally {
      rmSync(lock, { force: true });
    }
  }

  #content(): Content | undefined {
    let text: string;
    try {
      text = readFileSync(this.path, 'utf8');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
      throw new UsageError(`cannot read ${this.path}: ${fileTrouble(error)}`, { cause: error });
    }
    refuseOthersFile(this.path, { secret: true });
    const content = parseJson(this.path, text);
    if (isContent(content)) return content;
    throw new UsageError(`cannot use ${this.path}: it is not what a sign-in leaves; remove it`);
  }
}

function folder(): string {
  return join(configurationFolder(), 'sign-ins');
}

function makeFolder(): void {
  mkdirSync(folder(), { recursive: true, mode: 0o700 });
}

/** Makes the lock's file, unless it is there. */
function isTaken(lock: string): boolean {
  try {
    writeFileSync(lock, '', { mode: 0o600, flag: 'wx' });
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw new UsageError(`cannot write ${lock}: ${fileTrouble(error)}`, { cause: error });
  }
}

/** Drops the lock of a holder that was killed: renamed first, so that only one command does. */
function dropStale(lock: string): void {
  const found = statSync(lock, { throwIfNoEntry: false });
  if (found === undefined || Date.now() - found.mtimeMs < STALE_LOCK_MS) return;
  const dropped = `${lock}.${randomUUID()}`;
  try {
    renameSync(lock, dropped);
    rmSync(dropped);
  } catch {}
}

function isSame(one: Purpose, other: Purpose): boolean {
  const sorted = (purpose: Purpose) => JSON.stringify(Object.entries(purpose).toSorted());
  return sorted(one) === sorted(other);
}

function isContent(value: unknown): value is Content {
  if (typeof value !== 'object' || value === null) return false;
  const { purpose, flow, subject, token, refreshToken, stronger }: Partial<Content> = value;
  return (
    typeof purpose === 'object' &&
    purpose !== null &&
    (flow === 'code' || flow === 'device') &&
    typeof subject === 'string' &&
    isTokenOrNone(token) &&
    isTokenOrNone(stronger) &&
    (refreshToken === undefined || typeof refreshToken === 'string')
  );
}

function isTokenOrNone(value: unknown): boolean {
  if (value === undefined) return true;
  if (typeof value !== 'object' || value === null) return false;
  const { text, expiresAt }: Partial<CallToken> = value;
  return typeof text === 'string' && typeof expiresAt === 'number';
}
