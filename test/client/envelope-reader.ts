/**
 * A second implementation of envelopes, written from docs/envelopes.md and not from the client's
 * code: opens what the client has made, and makes what it is to open.
 */
import { createCipheriv, createDecipheriv, createHash, createHmac } from 'node:crypto';

/** What is needed to make an envelope as it was made once. */
export interface Given {
  readonly dataKey: Buffer;
  readonly wrapped: Buffer;
  readonly context: Readonly<Record<string, string>>;
  readonly associatedData?: Buffer;
  readonly content: number;
  readonly iv: Buffer;
  readonly plaintext: Buffer;
}

/** The same of a stream. */
export interface GivenStream extends Omit<Given, 'iv' | 'content' | 'associatedData'> {
  readonly salt: Buffer;
}

const CHUNK = 65_536;

function u16(value: number): Buffer {
  return Buffer.of(value >> 8, value & 0xff);
}

function u32(value: number): Buffer {
  return Buffer.of(value >>> 24, (value >>> 16) & 0xff, (value >>> 8) & 0xff, value & 0xff);
}

function sha256(...parts: readonly Buffer[]): Buffer {
  return createHash('sha256').update(Buffer.concat(parts)).digest();
}

function hmac(key: Buffer, ...parts: readonly Buffer[]): Buffer {
  return createHmac('sha256', key).update(Buffer.concat(parts)).digest();
}

/** RFC 5869, for 64 bytes. */
function hkdf(input: Buffer, salt: Buffer, info: string) {
  const prk = hmac(salt, input);
  const text = Buffer.from(info, 'latin1');
  const first = hmac(prk, text, Buffer.of(1));
  return { key: first, commitment: hmac(prk, first, text, Buffer.of(2)) };
}

function valueKeys(dataKey: Buffer) {
  return hkdf(dataKey, Buffer.alloc(32), 'keyward/v1/envelope\0');
}

function streamKeys(dataKey: Buffer, salt: Buffer) {
  return hkdf(valueKeys(dataKey).key, salt, 'keyward/v1/envelope-stream\0');
}

function contextDigest(context: Readonly<Record<string, string>>): Buffer {
  const entries = Object.entries(context).map((each) => each.map((text) => Buffer.from(text)));
  entries.sort(([a], [b]) => Buffer.compare(a as Buffer, b as Buffer));
  return sha256(...entries.flat().flatMap((bytes) => [u32(bytes.length), bytes]));
}

function encrypt(key: Buffer, iv: Buffer, aad: Buffer, plaintext: Buffer): Buffer {
  const cipher = createCipheriv('aes-256-gcm', key, iv);
  cipher.setAAD(aad);
  return Buffer.concat([cipher.update(plaintext), cipher.final(), cipher.getAuthTag()]);
}

function decrypt(key: Buffer, iv: Buffer, aad: Buffer, sealed: Buffer): Buffer {
  const decipher = createDecipheriv('aes-256-gcm', key, iv);
  decipher.setAAD(aad);
  decipher.setAuthTag(sealed.subarray(-16));
  return Buffer.concat([decipher.update(sealed.subarray(0, -16)), decipher.final()]);
}

const magic = (content: number) => Buffer.from([0x4b, 0x57, 0x45, 0x01, content]);

/** The envelope of a value. */
export function makeEnvelope(given: Given): Buffer {
  const { dataKey, wrapped, context, content, iv, plaintext } = given;
  const { key, commitment } = valueKeys(dataKey);
  const associated = given.associatedData ?? Buffer.alloc(0);
  const aad = Buffer.concat([magic(content), commitment, contextDigest(context), associated]);
  return Buffer.concat([
    ...[magic(content), u16(wrapped.length), wrapped, commitment, iv],
    encrypt(key, iv, aad, plaintext),
  ]);
}

/** What is in the envelope of a value. */
export function readEnvelope(
  envelope: Buffer,
  { dataKey, context, associatedData = Buffer.alloc(0) }: Omit<Given, 'iv' | 'plaintext'>,
): Buffer {
  const begin = 7 + envelope.readUInt16BE(5);
  const { key, commitment } = valueKeys(dataKey);
  if (!envelope.subarray(begin, begin + 32).equals(commitment)) throw new Error('another data key');
  const head = envelope.subarray(0, 5);
  const aad = Buffer.concat([head, commitment, contextDigest(context), associatedData]);
  const iv = envelope.subarray(begin + 32, begin + 44);
  return decrypt(key, iv, aad, envelope.subarray(begin + 44));
}

/** The envelope of a stream. */
export function makeStream(given: GivenStream): Buffer {
  const { dataKey, wrapped, context, salt, plaintext } = given;
  const { key, commitment } = streamKeys(dataKey, salt);
  const aad = Buffer.concat([magic(3), commitment, contextDigest(context)]);
  const parts = [magic(3), u16(wrapped.length), wrapped, commitment, salt];
  for (let begin = 0, number = 0; ; begin += CHUNK, number += 1) {
    const isLast = begin + CHUNK >= plaintext.length;
    const iv = Buffer.concat([Buffer.alloc(7), u32(number), Buffer.of(isLast ? 1 : 0)]);
    parts.push(encrypt(key, iv, aad, plaintext.subarray(begin, begin + CHUNK)));
    if (isLast) return Buffer.concat(parts);
  }
}
