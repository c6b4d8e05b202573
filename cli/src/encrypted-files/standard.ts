/**
 * Encrypts or decrypts what comes from standard input, or goes to standard output or a device.
 *
 * - No bytes go to a terminal that are not asked for.
 */
import { createReadStream } from 'node:fs';
import { open } from 'node:fs/promises';
import type { Duplex } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { UsageError } from '../failures.ts';
import { targetOf, writeStandardOutput } from '../files.ts';
import { NewFile } from '../new-file.ts';
import { BLOCK_BYTES, writingTo, writingToDisk } from './blocks.ts';
import { isOfOneFile, wordsOf } from './troubles.ts';
import type { Direction } from './walk.ts';

/** From where to where. */
export interface Passage {
  /** A file, or `-`. */
  readonly path: string;
  /** A file, a device, or `-`, which is standard output, as where none is given. */
  readonly out: string | undefined;
  readonly direction: Direction;
  readonly force: boolean;
  readonly through: () => Duplex;
  readonly signal: AbortSignal;
}

/** Passes the bytes of the one to the other. */
export async function pass(passage: Passage): Promise<void> {
  const { path, out, direction, signal } = passage;
  if (out === undefined && process.stdout.isTTY)
    throw new UsageError(
      'cannot write the result to the terminal: it can be anything; redirect it, give ' +
        '--out <file>, or give "--out -" to write it anyway',
    );
  try {
    await passOn(passage);
  } catch (error) {
    if (signal.aborted) throw signal.reason;
    if (error instanceof UsageError || !isOfOneFile(error, direction)) throw error;
    const name = path === '-' ? 'standard input' : path;
    throw new Error(`cannot ${direction} ${name}: ${wordsOf(error)}`, { cause: error });
  }
}

async function passOn({ path, out = '-', direction, force, through, signal }: Passage) {
  if (path === '-' && process.stdin.isTTY)
    process.stderr.write('Reading from the terminal; Ctrl-D ends the input.\n');
  const target = out === '-' ? 'standard' : targetOf(out, force);
  const input =
    path === '-' ? process.stdin : createReadStream(path, { highWaterMark: BLOCK_BYTES });
  if (target === 'standard') return await pipeline(input, through(), toStandardOutput, { signal });
  if (target === 'stream') {
    await using output = await open(out, 'w');
    await pipeline(input, through(), writingTo(output), { signal });
    return;
  }
  await using output = await NewFile.begin(out, direction === 'encrypt' ? 0o666 : 0o600);
  await pipeline(input, through(), writingToDisk(output.handle), { signal });
  await output.finish({ force });
}

async function toStandardOutput(parts: AsyncIterable<Buffer>): Promise<void> {
  for await (const part of parts) await writeStandardOutput(part);
}
