/**
 * Envelopes to the byte (docs/envelopes.md): where what is, which keys are derived from a data key,
 * and what is authenticated.
 *
 * Invariants: an envelope opens under one data key and no other (key commitment); nothing of what
 * is returned was not authenticated. Knows no service and keeps nothing.
 */
import {
  createCipheriv,
  createDecipheriv,
  createHash,
  createSecretKey,
  hkdfSync,
  type KeyObject,
  timingSafeEqual,
} from 'node:crypto';
import type { EncryptionContext } from '../messages.ts';
import { EnvelopeError } from './errors.ts';

const MAGIC = Buffer.from([0x4b, 0x57, 0x45, 0x01]);
const KEY_BYTES = 32;
const COMMITMENT_BYTES = 32;
/** Before the wrapped data key: the magic bytes, the content, and its length. */
const HEAD_BYTES = MAGIC.length + 3;
export const IV_BYTES = 12;
export const TAG_BYTES = 16;
export const SALT_BYTES = 32;
const CIPHER = 'aes-256-gcm';
const OPTIONS = { authTagLength: TAG_BYTES } as const;

/** What an envelope holds. */
export const CONTENT = { bytes: 0, text: 1, json: 2, stream: 3 } as const;
/** One of {@link CONTENT}'s values. */
export type Content = (typeof CONTENT)[keyof typeof CONTENT];
/** The content of a value, which is in one piece. */
export type ValueContent = Exclude<Content, typeof CONTENT.stream>;

/** The keys that are derived from a data key. */
export interface EnvelopeKeys {
  readonly key: KeyObject;
  readonly commitment: Buffer;
}

const VALUES = Buffer.from('keyward/v1/envelope\0', 'latin1');
const STREAMS = Buffer.from('keyward/v1/envelope-stream\0', 'latin1');
const NOTHING = Buffer.alloc(0);

/**
 * Derives of a data key the key that encrypts values, and the commitment to it: HKDF-SHA-256 (RFC
 * 5869). The data key can be overwritten afterwards.
 */
export function deriveKeys(dataKey: Buffer): EnvelopeKeys {
  return keysOf(dataKey, NOTHING, VALUES);
}

/** Derives of the key that encrypts values that of one stream, by the stream's salt. */
export function deriveStreamKeys({ key }: EnvelopeKeys, salt: Buffer): EnvelopeKeys {
  return keysOf(key, salt, STREAMS);
}

function keysOf(from: Buffer | KeyObject, salt: Buffer, info: Buffer): EnvelopeKeys {
  const derived = Buffer.from(hkdfSync('sha256', from, salt, info, KEY_BYTES + COMMITMENT_BYTES));
  const key = createSecretKey(derived.subarray(0, KEY_BYTES));
  const commitment = ownCopy(derived.subarray(KEY_BYTES));
  derived.fill(0);
  return { key, commitment };
}

/** Returns the digest of an encryption context: of its entries in the order of their names. */
export function contextDigest(context: EncryptionContext): Buffer {
  const hash = createHash('sha256');
  const entries = context instanceof Map ? [...context] : Object.entries(context);
  const named = entries.map((texts) => texts.map((text) => Buffer.from(String(text))));
  for (const [name = NOTHING, value = NOTHING] of named.sort(byName))
    for (const bytes of [name, value]) {
      const length = Buffer.alloc(4);
      length.writeUInt32BE(bytes.length);
      hash.update(length).update(bytes);
    }
  return hash.digest();
}

function byName([a = NOTHING]: readonly Buffer[], [b = NOTHING]: readonly Buffer[]): number {
  return Buffer.compare(a, b);
}

/** Returns what is authenticated beside the content, but for associated data. */
export function boundData(content: Content, commitment: Buffer, digest: Buffer): Buffer {
  return ownCopy(Buffer.concat([MAGIC, Buffer.of(content), commitment, digest]));
}

/**
 * Returns a copy whose memory is its own: what is remembered would keep the rest of Node's pool
 * with it, or of the message that it came in, 64 KiB.
 */
export function ownCopy(bytes: Uint8Array): Buffer {
  const copy = Buffer.allocUnsafeSlow(bytes.length);
  copy.set(bytes);
  return copy;
}

/** Returns {@link boundData} for a value of each content. */
export function boundValues(
  commitment: Buffer,
  digest: Buffer,
): Readonly<Record<ValueContent, Buffer>> {
  const of = (content: ValueContent) => boundData(content, commitment, digest);
  return [of(CONTENT.bytes), of(CONTENT.text), of(CONTENT.json)];
}

/** Returns what comes before an IV or a salt. */
export function headerOf(content: Content, wrapped: Buffer, commitment: Buffer): Buffer {
  const head = Buffer.alloc(HEAD_BYTES);
  MAGIC.copy(head);
  head.writeUInt8(content, MAGIC.length);
  head.writeUInt16BE(wrapped.length, MAGIC.length + 1);
  return Buffer.concat([head, wrapped, commitment]);
}

/** An envelope's header, and where what follows begins. */
export interface Header {
  readonly content: Content;
  readonly wrapped: Buffer;
  readonly commitment: Buffer;
  readonly end: number;
}

/**
 * Reads a header; undefined where the bytes do not have all of it yet. Throws MALFORMED for what
 * begins as no envelope does.
 */
export function readHeader(bytes: Buffer): Header | undefined {
  const known = Math.min(bytes.length, MAGIC.length);
  for (let at = 0; at < known; at++)
    if (bytes[at] !== MAGIC[at]) throw new EnvelopeError('MALFORMED');
  if (bytes.length < HEAD_BYTES) return undefined;
  const content = bytes.readUInt8(MAGIC.length);
  const length = bytes.readUInt16BE(MAGIC.length + 1);
  if (!isContent(content) || length === 0) throw new EnvelopeError('MALFORMED');
  const end = HEAD_BYTES + length + COMMITMENT_BYTES;
  if (bytes.length < end) return undefined;
  const wrapped = bytes.subarray(HEAD_BYTES, HEAD_BYTES + length);
  return { content, wrapped, commitment: bytes.subarray(HEAD_BYTES + length, end), end };
}

/** Throws NOT_AUTHENTIC unless the commitment is to these keys. */
export function requireCommitted(
  { commitment }: EnvelopeKeys,
  { commitment: given }: Header,
): void {
  if (!timingSafeEqual(commitment, given)) throw new EnvelopeError('NOT_AUTHENTIC');
}

/** Encrypts: returns the ciphertext with its tag, AES-256-GCM. */
export function seal(key: KeyObject, iv: Buffer, bound: Buffer, plaintext: Uint8Array): Buffer[] {
  const cipher = createCipheriv(CIPHER, key, iv, OPTIONS);
  cipher.setAAD(bound);
  // GCM has no last part of its own.
  const ciphertext = cipher.update(plaintext);
  cipher.final();
  return [ciphertext, cipher.getAuthTag()];
}

/**
 * Decrypts what {@link seal} has returned, in one piece, from where that begins. Throws
 * NOT_AUTHENTIC, and MALFORMED for what is too short.
 */
export function open(key: KeyObject, iv: Buffer, bound: Buffer, sealed: Buffer, begin = 0): Buffer {
  const end = sealed.length - TAG_BYTES;
  if (end < begin) throw new EnvelopeError('MALFORMED');
  const decipher = createDecipheriv(CIPHER, key, iv, OPTIONS);
  decipher.setAAD(bound);
  decipher.setAuthTag(sealed.subarray(end));
  const plaintext = decipher.update(sealed.subarray(begin, end));
  try {
    decipher.final();
  } catch {
    plaintext.fill(0);
    throw new EnvelopeError('NOT_AUTHENTIC');
  }
  return plaintext;
}

function isContent(value: number): value is Content {
  return value <= CONTENT.stream;
}
