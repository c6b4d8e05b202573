/**
 * Lines to a file descriptor, written together: 4 KiB or a tenth of a second at a time.
 *
 * - Whatever becomes of the descriptor (a full disk, a reader that is gone or does not read),
 *   nothing here throws, waits for long, or grows beyond {@link WAITING_LIMIT}: lines that cannot
 *   be written are dropped and counted.
 * - What is written is whole lines, in order.
 * - A write goes on as soon as one is possible again.
 *
 * The descriptor must never block: what a thread waits for holds up the end of the process
 * (measured). pino's own destination ends the process on a full disk, waits for ever in its
 * last flush (measured), and keeps what cannot be written without a limit. Does not know what a
 * line says.
 */
import { write, writeSync } from 'node:fs';

const TOGETHER_CHARACTERS = 4_096;
const TOGETHER_MS = 100;
/** At most this much is written at once, so that a container's log driver takes whole lines. */
const CHUNK_CHARACTERS = 16_384;
/** What may wait to be written, in characters: some 20,000 lines. */
const WAITING_LIMIT = 8_388_608;
const BUSY_MS = 10;
/** For so long the last lines may wait for a reader that is slow. */
const LAST_MS = 1_000;

/** A chunk on its way. */
interface Writing {
  bytes: Buffer;
  readonly since: number;
  /** The reader was busy, and no thread is at it now. */
  isWaiting: boolean;
}

/** Writes lines to a file descriptor in batches, and drops those that cannot be written. */
export class LineWriter {
  readonly #fd: number;
  readonly #onDropped: (lines: number) => void;
  /** Lines that wait, in chunks. */
  readonly #waiting: string[] = [];
  #waitingCharacters = 0;
  readonly #pieceBytes: number | undefined;
  /** Of the last chunk that waits, where that is bounded. */
  #lastBytes = 0;
  #writing: Writing | undefined;
  /** The last chunk was cut off in a line. */
  #isCut = false;
  #dropped = 0;

  /**
   * `onDropped` hears how many lines were dropped, once lines can be written again. `pieceBytes` is
   * for a descriptor that other processes write to as well: no write is larger.
   */
  constructor(fd: number, onDropped: (lines: number) => void, pieceBytes?: number) {
    this.#fd = fd;
    this.#pieceBytes = pieceBytes;
    this.#onDropped = onDropped;
    setInterval(() => this.#next(), TOGETHER_MS).unref();
  }

  /** Writes a line, which ends with a newline; not at once. */
  write(line: string): void {
    if (this.#waitingCharacters + line.length > WAITING_LIMIT) {
      this.#dropped += 1;
      return;
    }
    const last = this.#waiting.length - 1;
    if (last >= 0 && this.#fits(this.#waiting[last] ?? '', line)) this.#waiting[last] += line;
    else {
      this.#waiting.push(line);
      this.#lastBytes = this.#pieceBytes === undefined ? 0 : Buffer.byteLength(line);
    }
    this.#waitingCharacters += line.length;
    if (this.#waitingCharacters >= TOGETHER_CHARACTERS) this.#next();
  }

  /** Whether the last chunk has room for a line, which it then gets. */
  #fits(chunk: string, line: string): boolean {
    if (this.#pieceBytes === undefined) return chunk.length + line.length <= CHUNK_CHARACTERS;
    const bytes = this.#lastBytes + Buffer.byteLength(line);
    if (bytes >= this.#pieceBytes) return false;
    this.#lastBytes = bytes;
    return true;
  }

  /** Writes what waits before it returns; gives up after {@link LAST_MS}. */
  flushSync(): void {
    const now = performance.now();
    const until = now + LAST_MS;
    const writing = this.#writing;
    if (writing !== undefined) {
      // A reader that has not read for so long does not now.
      if (now - writing.since > LAST_MS) return;
      if (writing.isWaiting) writing.bytes = this.#writeNow(writing.bytes, until);
      if (writing.isWaiting && writing.bytes.length > 0) return;
    }
    for (let bytes = this.#take(); bytes !== undefined; bytes = this.#take()) {
      const rest = this.#writeNow(bytes, until);
      if (rest.length === 0) continue;
      this.#isCut = rest.length < bytes.length;
      this.#drop(rest);
      return;
    }
  }

  /** Returns what could not be written until then. */
  #writeNow(bytes: Buffer, until: number): Buffer {
    let rest = bytes;
    while (rest.length > 0) {
      try {
        rest = rest.subarray(writeSync(this.#fd, rest));
      } catch (error) {
        if (!isBusy(error) || performance.now() > until) return rest;
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, BUSY_MS);
      }
    }
    return rest;
  }

  /** Writes the next chunk, unless one is being written. */
  #next(): void {
    if (this.#writing !== undefined) return;
    const bytes = this.#take();
    if (bytes === undefined) return;
    this.#writing = { bytes, since: performance.now(), isWaiting: false };
    this.#write(this.#writing);
  }

  #write(writing: Writing): void {
    writing.isWaiting = false;
    write(this.#fd, writing.bytes, (error, written) => {
      if (error !== null && isBusy(error)) {
        writing.isWaiting = true;
        setTimeout(() => this.#write(writing), BUSY_MS).unref();
        return;
      }
      if (error !== null) this.#drop(writing.bytes);
      else if (written < writing.bytes.length) {
        writing.bytes = writing.bytes.subarray(written);
        this.#isCut = true;
        this.#write(writing);
        return;
      } else this.#written();
      this.#writing = undefined;
      if (this.#waitingCharacters >= TOGETHER_CHARACTERS) this.#next();
    });
  }

  /** The oldest chunk that waits. */
  #take(): Buffer | undefined {
    const chunk = this.#waiting.shift();
    if (chunk === undefined) return undefined;
    this.#waitingCharacters -= chunk.length;
    return Buffer.from(this.#isCut ? `\n${chunk}` : chunk);
  }

  #drop(bytes: Buffer): void {
    for (const byte of bytes) if (byte === NEWLINE) this.#dropped += 1;
  }

  #written(): void {
    this.#isCut = false;
    if (this.#dropped === 0) return;
    const dropped = this.#dropped;
    this.#dropped = 0;
    this.#onDropped(dropped);
  }
}

const NEWLINE = 0x0a;

function isBusy(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException;
  return code === 'EAGAIN' || code === 'EBUSY';
}
