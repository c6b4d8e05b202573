/**
 * A key version as it exists outside the HSM: wrapped by a root key, and sealed.
 *
 * Owns what a row seal and a check value are computed over, to the byte, and the form in which a
 * sealed version travels to an agent. The seal binds everything that a row says to its environment,
 * tenant, key and version, so a row that was changed or moved verifies nowhere. Holds no key: the
 * agent computes both HMACs in the token.
 */
import {
  type EnvironmentId,
  idToBytes,
  type KeyId,
  type RootKeyId,
  type SealKeyId,
  type TenantId,
  UUID_BYTES,
} from '../ids.ts';
import { bytes, id, struct, u8, u16, u32 } from './codec.ts';

/** Key material, in bytes: generated in the HSM. */
export const MATERIAL_BYTES = 64;
export const CHECK_VALUE_BYTES = 16;
/** HMAC-SHA-512 under the seal key, its first 32 bytes. */
export const SEAL_BYTES = 32;

/** The `algorithm` of a key version: what its material is used for. */
export const ALGORITHM = { hmacSha512Aes256Gcm: 1 } as const;

/** How a root key wraps a version. */
export const WRAP = { rfc3394: 1, rfc5649: 2 } as const;

/**
 * Which version of which key it is: what never changes, also when it is brought under another root.
 */
export interface KeyVersionIdentity {
  readonly tenantId: TenantId;
  readonly keyId: KeyId;
  readonly version: number;
  readonly algorithm: number;
}

/** A key version, wrapped and sealed: what Postgres keeps and agents load. */
export interface SealedKeyVersion extends KeyVersionIdentity {
  readonly rootKeyId: RootKeyId;
  readonly wrap: number;
  readonly wrapped: Buffer;
  readonly checkValue: Buffer;
  readonly sealKeyId: SealKeyId;
  readonly seal: Buffer;
}

/** {@link SealedKeyVersion} in an agent's frames. */
export const sealedKeyVersion = struct({
  tenantId: id<TenantId>(),
  keyId: id<KeyId>(),
  version: u32,
  algorithm: u16,
  rootKeyId: id<RootKeyId>(),
  wrap: u8,
  wrapped: bytes,
  checkValue: bytes,
  sealKeyId: id<SealKeyId>(),
  seal: bytes,
});

/**
 * Where the root key's UUID stands in {@link sealedKeyVersion}: behind tenant, key, version and
 * algorithm.
 */
const ROOT_KEY_AT = 38;

/** The root key that an encoded {@link sealedKeyVersion} names, as a string of its 16 bytes. */
export function rootKeyBytesOf(sealed: Buffer): string {
  return sealed.toString('latin1', ROOT_KEY_AT, ROOT_KEY_AT + UUID_BYTES);
}

const CHECK_LABEL = Buffer.from('keyward/v1/check\0', 'latin1');
const SEAL_LABEL = Buffer.from('keyward/v1/seal/key-version\0', 'latin1');

/** What a check value is the HMAC of, under the material itself. */
export function checkInput(environment: EnvironmentId, identity: KeyVersionIdentity): Buffer {
  return Buffer.concat([CHECK_LABEL, identityBytes(environment, identity)]);
}

/** What a row seal is the HMAC of, under the seal key. */
export function sealInput(
  environment: EnvironmentId,
  version: Omit<SealedKeyVersion, 'sealKeyId' | 'seal'>,
): Buffer {
  const length = Buffer.alloc(2);
  length.writeUInt16BE(version.wrapped.length);
  return Buffer.concat([
    SEAL_LABEL,
    identityBytes(environment, version),
    idToBytes(version.rootKeyId),
    Buffer.from([version.wrap]),
    version.checkValue,
    length,
    version.wrapped,
  ]);
}

/** environment UUID ‖ tenant UUID ‖ key UUID ‖ u32 version ‖ u16 algorithm. */
function identityBytes(environment: EnvironmentId, identity: KeyVersionIdentity): Buffer {
  const numbers = Buffer.alloc(6);
  numbers.writeUInt32BE(identity.version, 0);
  numbers.writeUInt16BE(identity.algorithm, 4);
  return Buffer.concat([
    idToBytes(environment),
    idToBytes(identity.tenantId),
    idToBytes(identity.keyId),
    numbers,
  ]);
}
