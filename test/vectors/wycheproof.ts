/**
 * Project Wycheproof's vectors, from the folder that WYCHEPROOF_VECTORS names.
 *
 * They are not in this repository; without the variable the tests that use them skip and say so.
 * Every such test counts what it ran, so that a changed file can't make it run nothing. Knows the
 * files, no algorithm.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

const directory = process.env['WYCHEPROOF_VECTORS'] ?? '';

/** For a test's `skip`: why it can't run, or false. */
export const skip: string | false =
  directory === '' ? 'WYCHEPROOF_VECTORS names no folder with Wycheproof’s vectors' : false;

/** What all vectors have; bytes are hexadecimal. */
interface Vector {
  readonly tcId: number;
  readonly comment: string;
  readonly flags: readonly string[];
  readonly key: string;
  readonly msg: string;
  readonly result: 'valid' | 'invalid' | 'acceptable';
}

export interface AeadVector extends Vector {
  readonly iv: string;
  readonly aad: string;
  readonly ct: string;
  readonly tag: string;
}

/** Sizes are in bits. */
export interface AeadGroup {
  readonly keySize: number;
  readonly ivSize: number;
  readonly tagSize: number;
  readonly tests: readonly AeadVector[];
}

export interface WrapVector extends Vector {
  readonly ct: string;
}

export interface WrapGroup {
  readonly keySize: number;
  readonly tests: readonly WrapVector[];
}

export interface MacVector extends Vector {
  readonly tag: string;
}

export interface MacGroup {
  readonly keySize: number;
  readonly tagSize: number;
  readonly tests: readonly MacVector[];
}

/** The groups of one file. */
export function groupsOf<Group>(file: string): readonly Group[] {
  const content = JSON.parse(readFileSync(join(directory, file), 'utf8')) as {
    readonly testGroups: readonly Group[];
  };
  return content.testGroups;
}

export function fromHex(text: string): Buffer {
  return Buffer.from(text, 'hex');
}

/** Counts what happened by name: `const ran = tally(); ran('valid'); ran.counts`. */
export function tally(): {
  (what: string): void;
  readonly counts: Readonly<Record<string, number>>;
} {
  const counts: Record<string, number> = {};
  const count = (what: string) => {
    counts[what] = (counts[what] ?? 0) + 1;
  };
  return Object.assign(count, { counts });
}
