/**
 * Ciphertext format 1, row seals and check values a second time: written from docs/ciphertext.md
 * alone, with node:crypto and nothing of Keyward's.
 *
 * It shows that the document is enough to write another implementation, and keeps the service's own
 * code from drifting away from it. Plain rather than fast: every function is a paragraph of the
 * document.
 */
import {
  createCipheriv,
  createDecipheriv,
  createHash,
  createHmac,
  timingSafeEqual,
} from 'node:crypto';

/** Pairs of key and value, in any order. */
export type ContextEntries = readonly (readonly [string, string])[];

/** What a ciphertext is sealed under and bound to. UUIDs are text. */
export interface Sealing {
  /** 64 bytes. */
  readonly material: Buffer;
  readonly tenant: string;
  readonly key: string;
  readonly version: number;
  readonly purpose: number;
  readonly subject: string;
  readonly context: ContextEntries;
}

/** A key version at rest. UUIDs are text. */
export interface KeyVersionAtRest {
  readonly environment: string;
  readonly tenant: string;
  readonly key: string;
  readonly version: number;
  readonly algorithm: number;
  readonly root: string;
  readonly wrap: number;
}

const HEADER_BYTES = 68;
const BYTES_BEFORE_ENCRYPTED = 100;
const TAG_BYTES = 16;
const MAX_PLAINTEXT_BYTES = 65_536;

/** "Encryption context": D. */
export function contextDigest(context: ContextEntries): Buffer {
  const sorted = context
    .map(([key, value]) => ({ key: Buffer.from(key, 'utf8'), value: Buffer.from(value, 'utf8') }))
    .sort((a, b) => Buffer.compare(a.key, b.key));
  const digest = createHash('sha256').update('keyward/v1/context\0').update(u32(sorted.length));
  for (const { key, value } of sorted) {
    digest.update(u32(key.length)).update(key).update(u32(value.length)).update(value);
  }
  return digest.digest();
}

/** "Binding": B. */
export function bindingOf({ tenant, subject, context }: Sealing): Buffer {
  return Buffer.concat([uuid(tenant), uuid(subject), contextDigest(context)]);
}

/** "Derivation": the 64 bytes of which the first half is K and the second the commitment. */
export function derive(key: Buffer, header: Buffer, binding: Buffer): Buffer {
  return hmacSha512(
    key,
    Buffer.from('00000001', 'hex'),
    Buffer.from('keyward/v1/message', 'ascii'),
    Buffer.from('00', 'hex'),
    header,
    binding,
    Buffer.from('00000200', 'hex'),
  );
}

/** "Epochs": E, of the epoch that a header of suite 2 names. */
export function deriveEpoch(material: Buffer, header: Buffer, tenant: string): Buffer {
  return hmacSha512(
    material,
    Buffer.from('00000001', 'hex'),
    Buffer.from('keyward/v1/epoch', 'ascii'),
    Buffer.from('00', 'hex'),
    header.subarray(1, 2),
    header.subarray(4, 20),
    header.subarray(20, 24),
    uuid(tenant),
    header.subarray(24, 56),
    Buffer.from('00000200', 'hex'),
  );
}

/** "Derivation": M, under which a message's key is derived. */
export function derivationKey({ material, tenant }: Sealing, header: Buffer): Buffer {
  return header[1] === 2 ? deriveEpoch(material, header, tenant) : material;
}

/**
 * "Sealing", with a suite, a salt of 32 bytes and an IV of 12 that the caller brings.
 */
export function sealWith(
  sealing: Sealing,
  salt: Buffer,
  iv: Buffer,
  plaintext: Buffer,
  suite = 1,
): Buffer {
  const { key, version, purpose } = sealing;
  const header = Buffer.concat([
    Buffer.from([1, suite, purpose, 0]),
    uuid(key),
    u32(version),
    salt,
    iv,
  ]);
  const binding = bindingOf(sealing);
  const derived = derive(derivationKey(sealing, header), header, binding);
  const commitment = derived.subarray(32, 64);
  const cipher = createCipheriv('aes-256-gcm', derived.subarray(0, 32), iv, {
    authTagLength: TAG_BYTES,
  });
  cipher.setAAD(Buffer.concat([header, commitment, binding]));
  const encrypted = Buffer.concat([cipher.update(plaintext), cipher.final()]);
  return Buffer.concat([header, commitment, encrypted, cipher.getAuthTag()]);
}

/** "Opening": the plaintext, or undefined when any of the checks fails. */
export function open(sealing: Sealing, ciphertext: Buffer): Buffer | undefined {
  const { length } = ciphertext;
  if (length < BYTES_BEFORE_ENCRYPTED + TAG_BYTES) return undefined;
  if (length > BYTES_BEFORE_ENCRYPTED + MAX_PLAINTEXT_BYTES + TAG_BYTES) return undefined;
  if (ciphertext[0] !== 1 || ciphertext[3] !== 0) return undefined;
  if (ciphertext[1] !== 1 && ciphertext[1] !== 2) return undefined;
  if (![1, 2, 3].includes(sealing.purpose) || ciphertext[2] !== sealing.purpose) return undefined;
  if (ciphertext.readUInt32BE(20) === 0) return undefined;
  if (!ciphertext.subarray(4, 20).equals(uuid(sealing.key))) return undefined;
  if (ciphertext.readUInt32BE(20) !== sealing.version) return undefined;

  const header = ciphertext.subarray(0, HEADER_BYTES);
  const binding = bindingOf(sealing);
  const derived = derive(derivationKey(sealing, header), header, binding);
  const commitment = ciphertext.subarray(HEADER_BYTES, BYTES_BEFORE_ENCRYPTED);
  if (!timingSafeEqual(commitment, derived.subarray(32, 64))) return undefined;

  const iv = header.subarray(56, 68);
  const decipher = createDecipheriv('aes-256-gcm', derived.subarray(0, 32), iv, {
    authTagLength: TAG_BYTES,
  });
  decipher.setAAD(Buffer.concat([header, commitment, binding]));
  decipher.setAuthTag(ciphertext.subarray(length - TAG_BYTES));
  const plaintext = decipher.update(
    ciphertext.subarray(BYTES_BEFORE_ENCRYPTED, length - TAG_BYTES),
  );
  try {
    decipher.final();
    return plaintext;
  } catch {
    return undefined;
  }
}

/** "Wrapping": material under a root key of 32 bytes. */
export function wrap(rootKey: Buffer, how: number, material: Buffer): Buffer {
  const cipher =
    how === 1
      ? createCipheriv('id-aes256-wrap', rootKey, Buffer.from('a6a6a6a6a6a6a6a6', 'hex'))
      : createCipheriv('id-aes256-wrap-pad', rootKey, Buffer.from('a65959a6', 'hex'));
  return Buffer.concat([cipher.update(material), cipher.final()]);
}

/** "Check value". */
export function checkValue(material: Buffer, version: KeyVersionAtRest): Buffer {
  return hmacSha512(
    material,
    Buffer.from('keyward/v1/check\0', 'ascii'),
    identity(version),
  ).subarray(0, 16);
}

/** "Row seal". */
export function rowSeal(
  sealKey: Buffer,
  version: KeyVersionAtRest,
  check: Buffer,
  wrapped: Buffer,
): Buffer {
  return hmacSha512(
    sealKey,
    Buffer.from('keyward/v1/seal/key-version\0', 'ascii'),
    identity(version),
    uuid(version.root),
    Buffer.from([version.wrap]),
    check,
    u16(wrapped.length),
    wrapped,
  ).subarray(0, 32);
}

/** "Identity". */
export function identity({
  environment,
  tenant,
  key,
  version,
  algorithm,
}: KeyVersionAtRest): Buffer {
  return Buffer.concat([uuid(environment), uuid(tenant), uuid(key), u32(version), u16(algorithm)]);
}

/** HMAC-SHA-512 of the parts one after another. */
export function hmacSha512(key: Buffer, ...parts: readonly Buffer[]): Buffer {
  return createHmac('sha512', key).update(Buffer.concat(parts)).digest();
}

function uuid(text: string): Buffer {
  return Buffer.from(text.replaceAll('-', ''), 'hex');
}

function u32(value: number): Buffer {
  return Buffer.from(value.toString(16).padStart(8, '0'), 'hex');
}

function u16(value: number): Buffer {
  return Buffer.from(value.toString(16).padStart(4, '0'), 'hex');
}
