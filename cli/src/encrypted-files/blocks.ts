/**
 * Reads and writes files of any size in constant memory, at the rate of the disk: while one block
 * is encrypted, the next is read and the one before is written.
 *
 * - What is read goes into two buffers in turn. One is used again once the stream that it was
 *   written to has called back, and never before.
 * - What is written is brought to disk beside what is written next; the caller syncs at the end.
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
/**
 * After so many bytes they are brought to disk, beside what is written next. Measured with 600 MB:
 * the sync at the end took 365 ms without it, and 10 to 85 ms with it.
 */
const FLUSH_BYTES = 67_108_864;
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
  await Promise.all([pipeline(through, writingToDisk(output), { signal }), feed()]);
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

/** Returns a stream into a device, a pipe or a file, which stays open. */
export function writingTo(file: FileHandle): Writable {
  return writable(file);
}

/**
 * Returns a stream into a regular file, which stays open. It brings to disk what was written while
 * more is, so that the sync that must follow has little left.
 */
export function writingToDisk(file: FileHandle): Writable {
  return writable(file, new Flushing(file));
}

function writable(file: FileHandle, flushing?: Flushing): Writable {
  const write = async (parts: Buffer[], done: (error?: Error | null) => void) => {
    try {
      const bytes = parts.reduce((sum, { length }) => sum + length, 0);
      await writeAll(file, parts);
      for (const part of parts) giveBack(part);
      flushing?.wrote(bytes);
    } catch (error) {
      return done(error as Error);
    }
    done();
  };
  // The file must not be closed under a sync, however the stream ends.
  const settled = (done: (error?: Error | null) => void, failed?: Error | null) =>
    flushing === undefined ? done(failed) : flushing.end().then(() => done(failed), done);
  return new Writable({
    highWaterMark: BLOCK_BYTES,
    write: (part: Buffer, _encoding, done) => void write([part], done),
    writev: (chunks, done) =>
      void write(
        chunks.map(({ chunk }) => chunk as Buffer),
        done,
      ),
    final: (done) => void settled(done),
    destroy: (error, done) => void settled(done, error),
  });
}

/**
 * Syncs what was written to a file, one sync at a time. A failure is kept until it is told: the
 * system reports what could not be brought to disk once, and the next sync succeeds.
 */
class Flushing {
  readonly #file: FileHandle;
  #unflushed = 0;
  #underWay: Promise<void> | undefined;
  #failure: { readonly error: unknown } | undefined;

  constructor(file: FileHandle) {
    this.#file = file;
  }

  /** Throws what the last sync failed with. */
  wrote(bytes: number): void {
    if (this.#failure !== undefined) throw this.#failure.error;
    this.#unflushed += bytes;
    if (this.#unflushed < FLUSH_BYTES || this.#underWay !== undefined) return;
    this.#unflushed = 0;
    this.#underWay = this.#flush();
  }

  /** Returns once no sync is under way. Rejects with what one failed with. */
  async end(): Promise<void> {
    await this.#underWay;
    if (this.#failure !== undefined) throw this.#failure.error;
  }

  async #flush(): Promise<void> {
    try {
      await this.#file.datasync();
    } catch (error) {
      this.#failure = { error };
    } finally {
      this.#underWay = undefined;
    }
  }
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
