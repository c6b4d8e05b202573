/**
 * What the tests of the ciphertext format share: material in software instead of in a token, and
 * arbitrary messages.
 */
import { createHmac } from 'node:crypto';
import fc from 'fast-check';
import {
  type Binding,
  type CiphertextHeader,
  CONTEXT_DIGEST_BYTES,
  MAX_PLAINTEXT_BYTES,
  type MaterialHmac,
  open,
  PURPOSE,
  parseHeader,
  seal,
  sealAll,
} from '../../../src/hsm/ciphertext.ts';
import { MATERIAL_BYTES } from '../../../src/hsm/key-version.ts';
import { type AnyId, idFromBytes, UUID_BYTES } from '../../../src/ids.ts';

/** Every purpose. */
export const PURPOSES = Object.values(PURPOSE);

/** What the error of a ciphertext that doesn't open must be. */
export const DECRYPTION_FAILED = { name: 'KeywardError', reason: 'DECRYPTION_FAILED' };

/** A message, and everything that it is sealed under and bound to. */
export interface Message {
  readonly header: CiphertextHeader;
  readonly binding: Binding;
  readonly material: Buffer;
  readonly plaintext: Buffer;
  /** 1 unless given. In suite 2 it is one of an epoch of several. */
  readonly suite?: 1 | 2;
}

/** What a token does with material. */
export function hmacOf(material: Buffer): MaterialHmac {
  return (input) => createHmac('sha512', material).update(input).digest();
}

export function sealMessage(sealed: Message): Buffer {
  const { header, binding, plaintext, material, suite = 1 } = sealed;
  if (suite === 1) return seal(header, binding, plaintext, hmacOf(material));
  const { tenant, ...own } = binding;
  const { purpose } = header;
  const other = { ...own, purpose, plaintext: Buffer.from('another of the epoch') };
  const messages = [other, { ...own, purpose, plaintext }, other];
  return sealAll(header, tenant, messages, hmacOf(material))[1] as Buffer;
}

/** Opens as the agent does: the header first, which must name this key and version. */
export function openMessage(
  ciphertext: Buffer,
  { header, binding, material }: Omit<Message, 'plaintext'>,
): Buffer | undefined {
  const { keyId, version } = parseHeader(ciphertext, [header.purpose]);
  if (keyId !== header.keyId || version !== header.version) return undefined;
  return open(ciphertext, binding, hmacOf(material));
}

/** Exactly this many arbitrary bytes. */
export function bytes(length: number): fc.Arbitrary<Buffer> {
  return bytesUpTo(length, length);
}

/** Arbitrary bytes, at most so many. */
export function bytesUpTo(maxLength: number, minLength = 0): fc.Arbitrary<Buffer> {
  return fc.uint8Array({ minLength, maxLength }).map((array) => Buffer.from(array));
}

/** Any UUID, whatever its version. */
export function uuid<Id extends AnyId>(): fc.Arbitrary<Id> {
  return bytes(UUID_BYTES).map((sixteen) => idFromBytes<Id>(sixteen));
}

/** A key version's number: the whole range of the format. */
export const versionNumber = fc.oneof(
  fc.constantFrom(1, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1),
  fc.integer({ min: 1, max: 2 ** 32 - 1 }),
);

// Plain objects, as the code under test makes them: fast-check's own have no prototype.
const PLAIN = { noNullPrototype: true } as const;

const header = fc.record(
  {
    purpose: fc.constantFrom(...PURPOSES),
    keyId: uuid<CiphertextHeader['keyId']>(),
    version: versionNumber,
  },
  PLAIN,
);

const binding = fc.record(
  {
    tenant: bytes(UUID_BYTES),
    subject: bytes(UUID_BYTES),
    contextDigest: bytes(CONTEXT_DIGEST_BYTES),
  },
  PLAIN,
);

const longPlaintext = fc
  .integer({ min: MAX_PLAINTEXT_BYTES - 1, max: MAX_PLAINTEXT_BYTES })
  .map((length) => Buffer.alloc(length, 0x2a));

/** Any message; most are short, some have the longest plaintext there is. */
export const message: fc.Arbitrary<Message> = fc.record(
  {
    header,
    binding,
    material: bytes(MATERIAL_BYTES),
    suite: fc.constantFrom(1, 2),
    plaintext: fc.oneof(
      { weight: 10, arbitrary: bytesUpTo(300) },
      { weight: 1, arbitrary: longPlaintext },
    ),
  },
  PLAIN,
);

/** A message whose every bit and length can be tried. */
export const shortMessage: fc.Arbitrary<Message> = fc
  .tuple(message, bytesUpTo(20))
  .map(([whole, plaintext]) => ({ ...whole, plaintext }));
