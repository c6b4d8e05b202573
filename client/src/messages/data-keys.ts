/**
 * Requests and responses about stored data keys: those that the service keeps, wrapped, for their
 * owners to fetch.
 */

import type { Change, ChangeOfExisting, EncryptionContext, FilteredPage } from './shared.ts';

/** A data key that the service keeps. */
export interface DataKey {
  /** `tenants/{tenant}/keys/{key}/dataKeys/{data_key}`. */
  readonly name: string;
  /** Random and immutable, lower-case UUID text. */
  readonly uid: string;
  /** The version that it is wrapped under now. */
  readonly keyVersion: string;
  /** In bytes. */
  readonly length: number;
  readonly createTime: Date;
  /** When it was last brought under another version; undefined if never. */
  readonly rewrapTime: Date | undefined;
  /** Names this data key and no later one of the same name. Re-wrapping doesn't change it. */
  readonly etag: string;
}

/** Makes a data key that the service keeps. */
export interface CreateDataKeyRequest extends Change {
  /** `tenants/{tenant}/keys/{key}`. */
  readonly parent: string;
  /** The last part of the data key's name; absent for one that is generated. */
  readonly dataKeyId?: string;
  /** Must be given again, identical, to open it. */
  readonly encryptionContext?: EncryptionContext;
  /** In bytes: 16, 32 or 64; absent means 32. */
  readonly length?: number;
  /** Whether its plaintext is wanted now; it is to be had by GetDataKey at any time. */
  readonly returnPlaintext?: boolean;
}

/** What CreateDataKey returns. */
export interface CreateDataKeyResponse {
  readonly dataKey: DataKey;
  /** The data key, if `returnPlaintext` asked for it. Use it, then forget it (`fill(0)`). */
  readonly plaintext: Buffer | undefined;
  /** CRC32C of `plaintext`. The client has compared them. */
  readonly plaintextCrc32c: number | undefined;
}

/** Opens a stored data key. */
export interface GetDataKeyRequest {
  /** `tenants/{tenant}/keys/{key}/dataKeys/{data_key}`. */
  readonly name: string;
  /** The same as when it was made. */
  readonly encryptionContext?: EncryptionContext;
}

/** What GetDataKey returns. */
export interface GetDataKeyResponse {
  readonly dataKey: DataKey;
  /** The data key. Use it, then forget it (`fill(0)`). */
  readonly plaintext: Buffer;
  /** CRC32C of `plaintext`. The client has compared them. */
  readonly plaintextCrc32c: number;
}

/** One page of a key's stored data keys. */
export interface ListDataKeysRequest extends FilteredPage {
  /** `tenants/{tenant}/keys/{key}`. */
  readonly parent: string;
}

/** One page of a key's stored data keys, ordered by name. */
export interface ListDataKeysResponse {
  readonly dataKeys: readonly DataKey[];
  /** Empty on the last page. */
  readonly nextPageToken: string;
}

/** Deletes a stored data key at once and for good. */
export interface DeleteDataKeyRequest extends ChangeOfExisting {
  /** `tenants/{tenant}/keys/{key}/dataKeys/{data_key}`. */
  readonly name: string;
}
