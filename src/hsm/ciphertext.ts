/**
 * Ciphertext format 1, to the byte: the one place in the code that draws it. docs/ciphertext.md
 * says the same in words.
 *
 * ```
 *  0 format = 01 │ 1 suite │ 2 purpose │ 3 zero
 *  4 key UUID (16) │ 20 version (4) │ 24 salt (32) │ 56 IV (12) │ 68 commitment (32)
 *  100 encrypted │ tag (16)
 *
 *  H = bytes 0..67        B = tenant UUID (16) ‖ subject (16) ‖ context digest (32)
 *  K(32) ‖ commitment(32) =
 *    HMAC-SHA-512(material, 00000001 ‖ "keyward/v1/message" 00 ‖ H ‖ B ‖ 00000200)
 *  AES-256-GCM under K, AAD = H ‖ commitment ‖ B
 * ```
 *
 * Invariant: no plaintext leaves {@link open} before commitment and tag are verified, and a
 * ciphertext that parses encodes back to the same bytes. Big-endian throughout. Doesn't hold key
 * material: the caller brings the HMAC, which the agent has from the token. Doesn't know what keys,
 * tenants or contexts are beyond their bytes.
 */
import { createSecretKey, hash, type KeyObject, timingSafeEqual } from 'node:crypto';
import { KeywardError } from '../errors.ts';
import { idFromBytes, idToBytes, type KeyId, UUID_BYTES } from '../ids.ts';
import { decrypt, encryptInto, IV_BYTES, TAG_BYTES } from './aes-gcm.ts';
import { drawSaltAndIv, SALT_BYTES } from './salts.ts';

const FORMAT = 1;
/** Suite 1: a key per message by SP 800-108 in counter mode over HMAC-SHA-512, AES-256-GCM. */
const SUITE_HMAC_SHA512_AES_256_GCM = 1;

/** What a ciphertext holds; no purpose opens as another. */
export const PURPOSE = { payload: 1, dataKey: 2, storedDataKey: 3 } as const;
export type Purpose = (typeof PURPOSE)[keyof typeof PURPOSE];

const KEY_ID_OFFSET = 4;
const VERSION_OFFSET = 20;
const SALT_OFFSET = 24;
const IV_OFFSET = 56;
const HEADER_BYTES = 68;
const COMMITMENT_BYTES = 32;
const ENCRYPTED_OFFSET = HEADER_BYTES + COMMITMENT_BYTES;
const MESSAGE_KEY_BYTES = 32;

/** How much longer a ciphertext is than its plaintext, in bytes. */
export const CIPHERTEXT_OVERHEAD = ENCRYPTED_OFFSET + TAG_BYTES;
/** The largest plaintext, in bytes. */
export const MAX_PLAINTEXT_BYTES = 65_536;
/** The length of the digest of an encryption context, in bytes. */
export const CONTEXT_DIGEST_BYTES = 32;
/** Of tenant, subject and digest: parts that are joined must not be able to shift. */
const BINDING_LENGTHS = [UUID_BYTES, UUID_BYTES, CONTEXT_DIGEST_BYTES].join();
/** The subject of whatever isn't a stored data key. */
export const NO_SUBJECT: Buffer = Buffer.alloc(UUID_BYTES);

/** What a ciphertext is bound to besides its own header: B. */
export interface Binding {
  /** The tenant's UUID, 16 bytes. */
  readonly tenant: Uint8Array;
  /** The UUID of the stored data key's row, else {@link NO_SUBJECT}. */
  readonly subject: Uint8Array;
  /** The encryption context's digest, 32 bytes. */
  readonly contextDigest: Uint8Array;
}

/** What a ciphertext says of itself before anything is verified. */
export interface CiphertextHeader {
  readonly purpose: Purpose;
  readonly keyId: KeyId;
  readonly version: number;
}

/**
 * HMAC-SHA-512 of the input under a key version's material: 64 bytes, which the callee may
 * overwrite.
 */
export type MaterialHmac = (input: Buffer) => Buffer;

const MESSAGE_LABEL = Buffer.concat([
  Buffer.from([0, 0, 0, 1]),
  Buffer.from('keyward/v1/message\0', 'latin1'),
]);
/** [L]₂ of SP 800-108: 512 bits. */
const MESSAGE_LENGTH = Buffer.from([0, 0, 2, 0]);

/**
 * Reads a ciphertext's header. Throws DECRYPTION_FAILED for whatever isn't format 1, suite 1, one
 * of `purposes`, and of a possible length.
 */
export function parseHeader(ciphertext: Buffer, purposes: readonly Purpose[]): CiphertextHeader {
  const purpose = purposes.find((known) => known === ciphertext[2]);
  const version =
    ciphertext.length >= CIPHERTEXT_OVERHEAD ? ciphertext.readUInt32BE(VERSION_OFFSET) : 0;
  if (
    ciphertext[0] !== FORMAT ||
    ciphertext[1] !== SUITE_HMAC_SHA512_AES_256_GCM ||
    ciphertext[3] !== 0 ||
    ciphertext.length > CIPHERTEXT_OVERHEAD + MAX_PLAINTEXT_BYTES ||
    purpose === undefined ||
    version === 0
  ) {
    throw new KeywardError('DECRYPTION_FAILED');
  }
  return {
    purpose,
    keyId: idFromBytes(ciphertext.subarray(KEY_ID_OFFSET, VERSION_OFFSET)),
    version,
  };
}

/**
 * Returns SHA-256 of a ciphertext's salt, base64: tells ciphertexts apart, and costs the same for
 * whatever bytes it is given, also where they are no ciphertext.
 */
export function saltDigest(ciphertext: Buffer): string {
  return hash('sha256', ciphertext.subarray(SALT_OFFSET, IV_OFFSET), 'base64');
}

/**
 * Encrypts `plaintext` (0 to 65,536 bytes) under a salt and an IV of its own. Throws RangeError for
 * what {@link open} could not open again.
 */
export function seal(
  header: CiphertextHeader,
  binding: Binding,
  plaintext: Uint8Array,
  hmac: MaterialHmac,
): Buffer {
  if (plaintext.length > MAX_PLAINTEXT_BYTES || header.version < 1)
    throw new RangeError('nothing could open this');
  const ciphertext = Buffer.alloc(CIPHERTEXT_OVERHEAD + plaintext.length);
  ciphertext[0] = FORMAT;
  ciphertext[1] = SUITE_HMAC_SHA512_AES_256_GCM;
  ciphertext[2] = header.purpose;
  idToBytes(header.keyId).copy(ciphertext, KEY_ID_OFFSET);
  ciphertext.writeUInt32BE(header.version, VERSION_OFFSET);
  const { tenant, subject, contextDigest } = binding;
  drawSaltAndIv(
    ciphertext.subarray(SALT_OFFSET, SALT_OFFSET + SALT_BYTES + IV_BYTES),
    [ciphertext.subarray(0, SALT_OFFSET), tenant, subject, contextDigest],
    plaintext,
  );
  const { key, commitment } = deriveMessageKey(ciphertext, binding, hmac);
  commitment.copy(ciphertext, HEADER_BYTES);
  const target = ciphertext.subarray(ENCRYPTED_OFFSET);
  encryptInto(target, key, ivOf(ciphertext), additionalData(ciphertext, binding), plaintext);
  return ciphertext;
}

/**
 * Opens a ciphertext whose header {@link parseHeader} accepted. Throws DECRYPTION_FAILED unless it
 * was sealed with this material and this binding, and no byte has changed since.
 */
export function open(ciphertext: Buffer, binding: Binding, hmac: MaterialHmac): Buffer {
  const { key, commitment } = deriveMessageKey(ciphertext, binding, hmac);
  if (!timingSafeEqual(commitment, ciphertext.subarray(HEADER_BYTES, ENCRYPTED_OFFSET))) {
    throw new KeywardError('DECRYPTION_FAILED');
  }
  const sealed = ciphertext.subarray(ENCRYPTED_OFFSET);
  const plaintext = decrypt(key, ivOf(ciphertext), additionalData(ciphertext, binding), sealed);
  if (plaintext === undefined) throw new KeywardError('DECRYPTION_FAILED');
  return plaintext;
}

function ivOf(ciphertext: Buffer): Buffer {
  return ciphertext.subarray(IV_OFFSET, IV_OFFSET + IV_BYTES);
}

function deriveMessageKey(
  ciphertext: Buffer,
  { tenant, subject, contextDigest }: Binding,
  hmac: MaterialHmac,
): { key: KeyObject; commitment: Buffer } {
  const lengths = [tenant.length, subject.length, contextDigest.length];
  if (lengths.join() !== BINDING_LENGTHS)
    throw new RangeError('a part of the binding has another length');
  const header = ciphertext.subarray(0, HEADER_BYTES);
  const derived = hmac(
    Buffer.concat([MESSAGE_LABEL, header, tenant, subject, contextDigest, MESSAGE_LENGTH]),
  );
  const key = createSecretKey(derived.subarray(0, MESSAGE_KEY_BYTES));
  const commitment = Buffer.from(
    derived.subarray(MESSAGE_KEY_BYTES, MESSAGE_KEY_BYTES + COMMITMENT_BYTES),
  );
  derived.fill(0);
  return { key, commitment };
}

function additionalData(ciphertext: Buffer, { tenant, subject, contextDigest }: Binding): Buffer {
  return Buffer.concat([ciphertext.subarray(0, ENCRYPTED_OFFSET), tenant, subject, contextDigest]);
}
