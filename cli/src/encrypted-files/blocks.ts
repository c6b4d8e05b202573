/**
 * Reads and writes files of any size in constant memory, at the rate of the disk: while one block
 * is encrypted, the next is read and the one before is written.
 *
 * - What is read goes into two buffers in turn. One is used again once the stream that it was
 *   written to has called back, and never before.
 * - What is written is given back at once, not when memory is next collected: the writer must own
 *   it, as what a client's stream gives out.
 */
import type { FileHandle } from 'node:fs/promises';
import { type Duplex, Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';

/**
 * Measured with a file of 1 GiB: 1 MiB has the rate of larger blocks, and 256 KiB two thirds of
 * it.
 */
export const BLOCK_BYTES = 1_048_576;
/** Smaller ones share memory with others. */
const OWN_MEMORY_BYTES = 16_384;

/** What passes through what, and who is told of it. */
export interface Passing {
  readonly input: FileHandle;
  /** How much the input has, for how much memory is taken. */
  readonly size: number;
  /** Keeps nothing of what was written to it once that was called back. */
  readonly through: Duplex;
  readonly output: FileHandle;
  readonly signal: AbortSignal;
  readonly wasRead: (bytes: number) => void;
}

/** Passes a file's bytes through a stream into another file. Both stay open. */
export async function passFile(passing: Passing): Promise<void> {
  const { input, size, through, output, signal, wasRead } = passing;
  const feed = async () => {
    try {
      for await (const block of blocksOf(input, size)) {
        await new Promise<void>((resolve, reject) =>
          through.write(block, (error) => (error ? reject(error) : resolve())),
        );
        wasRead(block.length);
      }
      through.end();
    } catch (error) {
      through.destroy(error as Error);
    }
  };
  // The pipeline fails with whatever fails.
  await Promise.all([pipeline(through, writingTo(output), { signal }), feed()]);
}

/** Yields the bytes of a file, each block to be used before the next is asked for. */
async function* blocksOf(file: FileHandle, size: number): AsyncGenerator<Buffer> {
  const bytes = Math.max(1, Math.min(size, BLOCK_BYTES));
  const [first, second] = [Buffer.allocUnsafeSlow(bytes), Buffer.allocUnsafeSlow(bytes)];
  let [next, after] = [first, second];
  let reading = readFull(file, next);
  try {
    for (;;) {
      const block = await reading;
      if (block.length === 0) return;
      [next, after] = [after, next];
      reading = readFull(file, next);
      reading.catch(() => {});
      yield block;
    }
  } finally {
    // The file must not be closed, nor the memory given up, under a read.
    await reading.catch(() => {});
    first.fill(0);
    second.fill(0);
  }
}

/** Returns a full buffer, or what is left of the file. */
async function readFull(file: FileHandle, buffer: Buffer): Promise<Buffer> {
  let length = 0;
  while (length < buffer.length) {
    const { bytesRead } = await file.read(buffer, length, buffer.length - length, null);
    if (bytesRead === 0) break;
    length += bytesRead;
  }
  return buffer.subarray(0, length);
}

/** Returns a stream into a file, which stays open. */
export function writingTo(file: FileHandle): Writable {
  const write = async (parts: Buffer[], done: (error?: Error | null) => void) => {
    try {
      await writeAll(file, parts);
      for (const part of parts) giveBack(part);
    } catch (error) {
      return done(error as Error);
    }
    done();
  };
  return new Writable({
    highWaterMark: BLOCK_BYTES,
    write: (part: Buffer, _encoding, done) => void write([part], done),
    writev: (chunks, done) =>
      void write(
        chunks.map(({ chunk }) => chunk as Buffer),
        done,
      ),
  });
}

/** More parts are refused by the system (IOV_MAX). */
const PARTS_AT_ONCE = 1_024;

async function writeAll(file: FileHandle, parts: readonly Buffer[]): Promise<void> {
  let left = parts;
  while (left.length > 0) {
    let { bytesWritten } = await file.writev(left.slice(0, PARTS_AT_ONCE));
    const whole = left.findIndex(({ length }) => {
      const isPartial = length > bytesWritten;
      if (!isPartial) bytesWritten -= length;
      return isPartial;
    });
    if (whole === -1) return;
    const [partial, ...rest] = left.slice(whole);
    left = partial === undefined ? [] : [partial.subarray(bytesWritten), ...rest];
  }
}

/** Frees the memory, which nothing refers to any more. Node 20 leaves it to be collected. */
function giveBack({ buffer, byteLength }: Buffer): void {
  if (byteLength < OWN_MEMORY_BYTES || byteLength !== buffer.byteLength) return;
  (buffer as { transfer?: (bytes: number) => unknown }).transfer?.(0);
}
