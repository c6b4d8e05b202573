/**
 * Tells files that an earlier run has made of what they are to be made of from others.
 *
 * - One that was made has the time of the file that it was made of.
 * - An encrypted one must also be of this key and encryption context. No file tells that, so the
 *   service is asked to open its data key.
 */
import { lstat, open } from 'node:fs/promises';
import { EnvelopeError, KeywardError, type Opening } from 'keyward-client';
import type { Pair } from './walk.ts';

/** What becomes of a pair: it is to be made, seems made by an earlier run, or must not be. */
export type Target = 'new' | 'made' | 'taken';

/** Returns which of them a pair is, by the time of what is there. */
export async function targetStatus({ to, status }: Pair): Promise<Target> {
  const there = await lstat(to).catch(() => undefined);
  if (there === undefined) return 'new';
  const isSame = Math.abs(there.mtimeMs - status.mtimeMs) < SAME_TIME_MS;
  return there.isFile() && isSame ? 'made' : 'taken';
}

/** A time in seconds as a double, as it is set, is precise to a quarter of a microsecond. */
const SAME_TIME_MS = 0.01;

/** Asks for each beginning of an encrypted file whether its data key opens. */
export type Asking = (beginnings: Iterable<Buffer>) => AsyncIterable<Opening>;

/**
 * Returns those of what seems made that are of another key or encryption context, or no encrypted
 * files. Rejects where the service does not tell.
 */
export async function othersAmong(made: readonly Pair[], ask: Asking): Promise<readonly Pair[]> {
  const others: Pair[] = [];
  const pairs = made.values();
  for await (const opening of ask(await Promise.all(made.map(({ to }) => beginningOf(to))))) {
    const { value: pair } = pairs.next();
    if ('opens' in opening || pair === undefined) continue;
    if (!isOfAnother(opening.error)) throw opening.error;
    others.push(pair);
  }
  return others;
}

/** A version that is disabled or destroyed opens nothing for anyone. */
function isOfAnother(error: Error): boolean {
  if (error instanceof EnvelopeError) return true;
  if (!(error instanceof KeywardError)) return false;
  return error.reason === 'DECRYPTION_FAILED' || error.code === 'FAILED_PRECONDITION';
}

/** The header of an encrypted file has 187 bytes. */
const BEGINNING_BYTES = 1_024;

/** Returns the first bytes of a file; none of one that cannot be read. */
async function beginningOf(file: string): Promise<Buffer> {
  try {
    await using handle = await open(file);
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(BEGINNING_BYTES), 0, null, 0);
    return buffer.subarray(0, bytesRead);
  } catch {
    return Buffer.alloc(0);
  }
}
