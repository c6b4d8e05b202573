/**
 * Tells what is wrong with one file from what is wrong with everything, and puts it into words.
 */
import { EnvelopeError, KeywardError } from 'keyward-client';
import { describe, fileTrouble } from '../failures.ts';
import type { Direction } from './walk.ts';

/** What is wrong with the disk is wrong with it for the next file too. */
const OF_THE_DISK = ['ENOSPC', 'EDQUOT', 'EROFS', 'EIO', 'EMFILE', 'ENFILE'];

/** Returns whether the next file can fare better. */
export function isOfOneFile(error: unknown, direction: Direction): boolean {
  if (error instanceof KeywardError)
    return direction === 'decrypt' && error.code === 'INVALID_ARGUMENT';
  const { code } = error as NodeJS.ErrnoException;
  return !OF_THE_DISK.includes(code ?? '');
}

const OF_ENVELOPES: Readonly<Record<EnvelopeError['reason'], string>> = {
  MALFORMED: 'it is not an encrypted file, or is cut',
  NOT_AUTHENTIC: 'it was changed or cut, or is of another key or encryption context',
  WRONG_CONTENT: 'it is an envelope of a value, not of a file',
};

/** Returns what went wrong with a file, in words that follow its name. */
export function wordsOf(error: unknown): string {
  if (error instanceof EnvelopeError) return OF_ENVELOPES[error.reason];
  if (error instanceof Error && 'syscall' in error) return fileTrouble(error);
  return describe(error);
}
