/**
 * Streams in envelopes (docs/envelopes.md): chunks of 64 KiB, each encrypted under the stream's own
 * key with its number and whether it is the last (STREAM, Hoang, Reyhanitabar, Rogaway and Vizár,
 * 2015), so that nothing can be cut, moved, repeated or appended unseen.
 *
 * Invariants: memory does not grow with the stream; no byte is given out that was not verified.
 */
import { randomBytes } from 'node:crypto';
import { Transform, type TransformCallback } from 'node:stream';
import type { OpenDataKey, Soon } from './data-keys.ts';
import { EnvelopeError } from './errors.ts';
import {
  boundData,
  CONTENT,
  deriveStreamKeys,
  type EnvelopeKeys,
  headerOf,
  IV_BYTES,
  open,
  readHeader,
  requireCommitted,
  SALT_BYTES,
  seal,
  TAG_BYTES,
} from './format.ts';

/** The plaintext of a chunk; the last one may have less. */
const CHUNK_BYTES = 65_536;
const SEALED_BYTES = CHUNK_BYTES + TAG_BYTES;
/** 256 TiB. */
const MAX_CHUNKS = 2 ** 32;
/** A wrapped data key and all before it are shorter. */
const MAX_HEADER_BYTES = 65_536 + 128;

/** What the chunks of one stream are encrypted with. */
class Chunks {
  readonly #keys: EnvelopeKeys;
  readonly #bound: Buffer;
  #count = 0;

  constructor(keys: EnvelopeKeys, digest: Buffer) {
    this.#keys = keys;
    this.#bound = boundData(CONTENT.stream, keys.commitment, digest);
  }

  seal(plaintext: Buffer, isLast: boolean): Buffer[] {
    return seal(this.#keys.key, this.#nextIv(isLast), this.#bound, plaintext);
  }

  open(sealed: Buffer, isLast: boolean): Buffer {
    return open(this.#keys.key, this.#nextIv(isLast), this.#bound, sealed);
  }

  /** The chunk's number and whether it is the last: the key is this stream's alone. */
  #nextIv(isLast: boolean): Buffer {
    if (this.#count === MAX_CHUNKS) throw new RangeError('the stream has too many bytes');
    const iv = Buffer.alloc(IV_BYTES);
    iv.writeUInt32BE(this.#count, IV_BYTES - 5);
    iv.writeUInt8(isLast ? 1 : 0, IV_BYTES - 1);
    this.#count += 1;
    return iv;
  }
}

/**
 * Cuts what is written into pieces of one size, and keeps the last one back. What it keeps is a
 * copy: the memory of a chunk can be used again.
 */
class Pieces {
  readonly #kept: Buffer;
  #length = 0;

  constructor(bytes: number) {
    this.#kept = Buffer.allocUnsafeSlow(bytes);
  }

  /** Yields each piece that is known not to be the last, valid until the next is asked for. */
  *add(chunk: Buffer): Iterable<Buffer> {
    const bytes = this.#kept.length;
    let at = 0;
    if (this.#length > 0) {
      at = chunk.copy(this.#kept, this.#length);
      this.#length += at;
      if (at === chunk.length) return;
      yield this.#kept;
    }
    for (; chunk.length - at > bytes; at += bytes) yield chunk.subarray(at, at + bytes);
    this.#length = chunk.copy(this.#kept, 0, at);
  }

  /** Returns what is left. */
  last(): Buffer {
    return this.#kept.subarray(0, this.#length);
  }

  /** Overwrites what is left. */
  clear(): void {
    this.#kept.fill(0);
    this.#length = 0;
  }
}

const NOTHING = Buffer.alloc(0);

/**
 * Encrypts what is written to it. A chunk's memory can be used again once its write is called back,
 * and what is given out is in memory of its own.
 */
export class StreamEncryption extends Transform {
  readonly #issue: () => Soon<OpenDataKey>;
  readonly #pieces = new Pieces(CHUNK_BYTES);
  #chunks: Chunks | undefined;

  constructor(issue: () => Soon<OpenDataKey>) {
    super();
    this.#issue = issue;
  }

  override _transform(chunk: Buffer, _encoding: BufferEncoding, done: TransformCallback): void {
    if (this.#chunks !== undefined) this.#seal(this.#chunks, chunk, done);
    else
      this.#begin().then(
        (chunks) => this.#seal(chunks, chunk, done),
        (error: Error) => done(error),
      );
  }

  #seal(chunks: Chunks, chunk: Buffer, done: TransformCallback): void {
    attempt(done, () => {
      for (const piece of this.#pieces.add(chunk))
        for (const part of chunks.seal(piece, false)) this.push(part);
    });
  }

  override _flush(done: TransformCallback): void {
    const end = (chunks: Chunks) =>
      attempt(done, () => {
        for (const part of chunks.seal(this.#pieces.last(), true)) this.push(part);
        this.#pieces.clear();
      });
    if (this.#chunks !== undefined) end(this.#chunks);
    else this.#begin().then(end, (error: Error) => done(error));
  }

  async #begin(): Promise<Chunks> {
    const { wrapped, keys, digest } = await this.#issue();
    const salt = randomBytes(SALT_BYTES);
    const own = deriveStreamKeys(keys, salt);
    this.push(Buffer.concat([headerOf(CONTENT.stream, wrapped, own.commitment), salt]));
    this.#chunks = new Chunks(own, digest);
    return this.#chunks;
  }
}

/** Decrypts what is written to it; of memory as {@link StreamEncryption}. */
export class StreamDecryption extends Transform {
  readonly #open: (wrapped: Buffer) => Soon<OpenDataKey>;
  readonly #pieces = new Pieces(SEALED_BYTES);
  #head: Buffer = Buffer.alloc(0);
  #chunks: Chunks | undefined;

  constructor(open: (wrapped: Buffer) => Soon<OpenDataKey>) {
    super();
    this.#open = open;
  }

  override _transform(chunk: Buffer, _encoding: BufferEncoding, done: TransformCallback): void {
    if (this.#chunks !== undefined) this.#give(chunk, done);
    else
      this.#begin(chunk).then(
        (rest) => this.#give(rest, done),
        (error: Error) => done(error),
      );
  }

  #give(chunk: Buffer, done: TransformCallback): void {
    attempt(done, () => {
      for (const piece of this.#pieces.add(chunk)) {
        if (this.#chunks === undefined) throw new EnvelopeError('MALFORMED');
        this.push(this.#chunks.open(piece, false));
      }
    });
  }

  override _flush(done: TransformCallback): void {
    attempt(done, () => {
      if (this.#chunks === undefined) throw new EnvelopeError('MALFORMED');
      this.push(this.#chunks.open(this.#pieces.last(), true));
    });
  }

  /** Returns what follows the header and the salt: nothing while they are not whole. */
  async #begin(chunk: Buffer): Promise<Buffer> {
    this.#head = Buffer.concat([this.#head, chunk]);
    const header = readHeader(this.#head);
    if (header === undefined || this.#head.length < header.end + SALT_BYTES) {
      if (this.#head.length > MAX_HEADER_BYTES) throw new EnvelopeError('MALFORMED');
      return NOTHING;
    }
    if (header.content !== CONTENT.stream) throw new EnvelopeError('WRONG_CONTENT');
    const { keys, digest } = await this.#open(header.wrapped);
    const begin = header.end + SALT_BYTES;
    const own = deriveStreamKeys(keys, this.#head.subarray(header.end, begin));
    requireCommitted(own, header);
    this.#chunks = new Chunks(own, digest);
    const rest = this.#head.subarray(begin);
    this.#head = Buffer.alloc(0);
    return rest;
  }
}

function attempt(done: TransformCallback, work: () => void): void {
  try {
    work();
  } catch (error) {
    done(error as Error);
    return;
  }
  done();
}
