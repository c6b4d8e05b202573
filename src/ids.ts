/**
 * UUIDs as the whole service writes them: lower-case text in memory and in the database, 16 bytes
 * in formats.
 *
 * Owns the brands that keep a tenant's UUID from being taken for a key's. Doesn't know what any of
 * them names.
 */
import { randomUUID } from 'node:crypto';

type Uuid<Kind extends string> = string & { readonly kind: Kind };
/** A UUID of whatever kind. */
export type AnyId = Uuid<string>;

export type EnvironmentId = Uuid<'environment'>;
export type TenantId = Uuid<'tenant'>;
export type KeyId = Uuid<'key'>;
/** A root key's CKA_ID. */
export type RootKeyId = Uuid<'root key'>;
/** A seal key's CKA_ID. */
export type SealKeyId = Uuid<'seal key'>;
/** A token's, as the database names it. */
export type TokenId = Uuid<'token'>;

/** A stored data key's: what its ciphertext calls its subject. */
export type DataKeyId = Uuid<'data key'>;
/** A re-wrap job's; in the order of the database's time ({@link newOrderedId}). */
export type JobId = Uuid<'job'>;
/** A pending operation's. */
export type OperationId = Uuid<'pending operation'>;

/** The length of a UUID in bytes. */
export const UUID_BYTES = 16;

/** A new random UUID (RFC 9562, version 4). */
export function newId<Id extends AnyId>(): Id {
  return randomUUID() as Id;
}

/**
 * A new UUID whose text sorts by the time of its making, in milliseconds since 1970 (RFC 9562,
 * version 7).
 */
export function newOrderedId<Id extends AnyId>(time: number): Id {
  const random = idToBytes(newId());
  random.writeUIntBE(Math.floor(time), 0, 6);
  random.writeUInt8((random.readUInt8(6) & 0x0f) | 0x70, 6);
  return idFromBytes(random);
}

/** The 16 bytes of a UUID in text. */
export function idToBytes(id: AnyId): Buffer {
  return Buffer.from(id.replaceAll('-', ''), 'hex');
}

/** The text of a UUID of 16 bytes. */
export function idFromBytes<Id extends AnyId>(bytes: Uint8Array): Id {
  const hex = Buffer.from(bytes.buffer, bytes.byteOffset, UUID_BYTES).toString('hex');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}` as Id;
}
