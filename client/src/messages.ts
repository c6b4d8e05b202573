/**
 * The requests and responses of the public API, in friendly types.
 *
 * Owns their names and shapes only: field names are those of `proto/keyward/v1` in camel case, whose comments say what
 * each means and which limits it has; the limits are checked by the service, in one place, and not here. `wire.ts`
 * converts, and its types check that nothing here has drifted from the contract.
 */

import type { KeywardClientError } from './errors.ts';

/** A `Map`, or an object's own enumerable properties, whatever their names. */
export type Strings = Readonly<Record<string, string>> | ReadonlyMap<string, string>;

/**
 * Strings that are authenticated but not secret, and must be given again, identical, to decrypt. Order doesn't matter;
 * absent is the same as empty.
 */
export type EncryptionContext = Strings;

/** Whether a tenant's keys can be used; `UNSPECIFIED` is a state newer than this client. */
export type TenantState = 'UNSPECIFIED' | 'ENABLED' | 'DISABLED';

/** Whether a key can be used at all; `UNSPECIFIED` is a state newer than this client. */
export type KeyState = 'UNSPECIFIED' | 'ENABLED' | 'DISABLED';

/** What a key version can be used for; `UNSPECIFIED` is a state newer than this client. */
export type KeyVersionState = 'UNSPECIFIED' | 'ENABLED' | 'DISABLED';

/** What a key version encrypts with; `UNSPECIFIED` is an algorithm newer than this client. */
export type Algorithm = 'UNSPECIFIED' | 'HMAC_SHA512_AES_256_GCM';

/** The unit of isolation. */
export interface Tenant {
  /** `tenants/{tenant}`. */
  readonly name: string;
  /** Random and immutable, lower-case UUID text. */
  readonly uid: string;
  readonly createTime: Date;
  readonly state: TenantState;
  /** Changes with every change to the tenant. */
  readonly etag: string;
}

/** A named, versioned logical key. */
export interface Key {
  /** `tenants/{tenant}/keys/{key}`. */
  readonly name: string;
  /** Random and immutable, lower-case UUID text. */
  readonly uid: string;
  /** The version under which new data is encrypted. */
  readonly primary: KeyVersion;
  readonly createTime: Date;
  /** Whether it can be used at all; its versions have states of their own. */
  readonly state: KeyState;
  /** What it is for, in the administrator's words. Not secret. */
  readonly description: string;
  /** Not secret. */
  readonly labels: Readonly<Record<string, string>>;
  /** Changes with every change to the key and its set of versions. */
  readonly etag: string;
}

/** One generation of a key's material. */
export interface KeyVersion {
  /** `tenants/{tenant}/keys/{key}/versions/{version}`. */
  readonly name: string;
  readonly state: KeyVersionState;
  readonly algorithm: Algorithm;
  readonly createTime: Date;
  /** Changes with every change to the version. */
  readonly etag: string;
}

/** What every change also has. */
interface Change {
  /**
   * A UUID (version 4): the same request with it, within 24 hours, has no further effect and gets the answer anew.
   * Absent: one of the client's making for each call, so that the client may try again. Give your own to repeat the call
   * yourself when its outcome is unknown.
   */
  readonly requestId?: string;
}

/** What a change to something that is there also has. */
interface ChangeOfExisting extends Change {
  /** As it was last seen: the change is refused with ETAG_MISMATCH when there has been another since. Absent: whatever it is. */
  readonly etag?: string;
}

/** See {@link Tenant}. */
export interface CreateTenantRequest extends Change {
  /** The last part of the new tenant's name. */
  readonly tenantId: string;
}

/** See {@link Tenant}. */
export interface GetTenantRequest {
  /** `tenants/{tenant}`. */
  readonly name: string;
}

/** Stops all use of a tenant's keys. */
export interface DisableTenantRequest extends ChangeOfExisting {
  /** `tenants/{tenant}`. */
  readonly name: string;
}

/** Undoes DisableTenant. */
export interface EnableTenantRequest extends ChangeOfExisting {
  /** `tenants/{tenant}`. */
  readonly name: string;
}

/** Which page of a list, and of what. */
interface Page {
  /** 1 to 1,000; absent means 100. */
  readonly pageSize?: number;
  /** `nextPageToken` of the page before, from the same request; absent for the first. */
  readonly pageToken?: string;
  /** As in `state = DISABLED AND labels.team = "payments"`; the contract has the grammar. Absent: all. */
  readonly filter?: string;
}

/** One page of the tenants. */
export interface ListTenantsRequest extends Page {}

/** One page of the tenants, ordered by name. */
export interface ListTenantsResponse {
  readonly tenants: readonly Tenant[];
  /** Empty on the last page. */
  readonly nextPageToken: string;
}

/** See {@link Key}. */
export interface CreateKeyRequest extends Change {
  /** `tenants/{tenant}`. */
  readonly parent: string;
  /** The last part of the new key's name. */
  readonly keyId: string;
  readonly description?: string;
  readonly labels?: Strings;
}

/** See {@link Key}. */
export interface GetKeyRequest {
  /** `tenants/{tenant}/keys/{key}`. */
  readonly name: string;
}

/** One page of a tenant's keys. */
export interface ListKeysRequest extends Page {
  /** `tenants/{tenant}`. */
  readonly parent: string;
}

/** One page of a tenant's keys, ordered by name. */
export interface ListKeysResponse {
  readonly keys: readonly Key[];
  /** Empty on the last page. */
  readonly nextPageToken: string;
}

/** One page of a key's versions. */
export interface ListKeyVersionsRequest extends Page {
  /** `tenants/{tenant}/keys/{key}`. */
  readonly parent: string;
}

/** One page of a key's versions, newest first. */
export interface ListKeyVersionsResponse {
  readonly keyVersions: readonly KeyVersion[];
  /** Empty on the last page. */
  readonly nextPageToken: string;
}

/** Makes a new version, and makes it the primary. */
export interface RotateKeyRequest extends ChangeOfExisting {
  /** `tenants/{tenant}/keys/{key}`. */
  readonly name: string;
}

/** Changes a key's description or labels. */
export interface UpdateKeyRequest extends Change {
  /** Which key, and what its fields are to be. */
  readonly key: {
    /** `tenants/{tenant}/keys/{key}`. */
    readonly name: string;
    readonly description?: string;
    /** Replaced as a whole. */
    readonly labels?: Strings;
    /** As it was last seen, or absent for whatever it is now. */
    readonly etag?: string;
  };
  /** Which fields, `description` or `labels`. Absent: those that `key` has. */
  readonly updateMask?: readonly string[];
}

/** Stops all use of a key. */
export interface DisableKeyRequest extends ChangeOfExisting {
  /** `tenants/{tenant}/keys/{key}`. */
  readonly name: string;
}

/** Undoes DisableKey. */
export interface EnableKeyRequest extends ChangeOfExisting {
  /** `tenants/{tenant}/keys/{key}`. */
  readonly name: string;
}

/** See {@link KeyVersion}. */
export interface GetKeyVersionRequest {
  /** `tenants/{tenant}/keys/{key}/versions/{version}`. */
  readonly name: string;
}

/** Stops all use of one version. */
export interface DisableKeyVersionRequest extends ChangeOfExisting {
  /** `tenants/{tenant}/keys/{key}/versions/{version}`. */
  readonly name: string;
}

/** Undoes DisableKeyVersion. */
export interface EnableKeyVersionRequest extends ChangeOfExisting {
  /** `tenants/{tenant}/keys/{key}/versions/{version}`. */
  readonly name: string;
}

/** Encrypts under the key's primary version. */
export interface EncryptRequest {
  /** `tenants/{tenant}/keys/{key}`. */
  readonly name: string;
  /** 0 to 65,536 bytes. */
  readonly plaintext: Uint8Array;
  readonly encryptionContext?: EncryptionContext;
  /** CRC32C of `plaintext`, where its source has made one; the client makes it otherwise. */
  readonly plaintextCrc32c?: number;
}

/** What Encrypt returns. */
export interface EncryptResponse {
  /** 116 bytes more than the plaintext. */
  readonly ciphertext: Buffer;
  /** The version that encrypted. */
  readonly keyVersion: string;
  /** CRC32C of `ciphertext`, to be kept with it. The client has compared them. */
  readonly ciphertextCrc32c: number;
  /** Whether the service has compared the plaintext with its checksum; true unless checksums are off. */
  readonly verifiedPlaintextCrc32c: boolean;
}

/** Opens what Encrypt or GenerateDataKey returned. */
export interface DecryptRequest {
  /** The tenant whose key it is: `tenants/{tenant}`. */
  readonly parent: string;
  readonly ciphertext: Uint8Array;
  /** The same as was given to encrypt. */
  readonly encryptionContext?: EncryptionContext;
  /** `tenants/{tenant}/keys/{key}`: a ciphertext of any other key doesn't open. Absent: any key of the tenant. */
  readonly key?: string;
  /** CRC32C of `ciphertext`, as it was kept with it; the client makes it otherwise. */
  readonly ciphertextCrc32c?: number;
}

/** What Decrypt returns. */
export interface DecryptResponse {
  /** Yours alone: `fill(0)` after use overwrites the bytes as they came out of the transport. */
  readonly plaintext: Buffer;
  /** The version that had encrypted it. */
  readonly keyVersion: string;
  /** CRC32C of `plaintext`. The client has compared them. */
  readonly plaintextCrc32c: number;
  /** Whether the service has compared the ciphertext with its checksum; true unless checksums are off. */
  readonly verifiedCiphertextCrc32c: boolean;
}

/** Issues a data key for encryption of your own. */
export interface GenerateDataKeyRequest {
  /** `tenants/{tenant}/keys/{key}`. */
  readonly name: string;
  readonly encryptionContext?: EncryptionContext;
  /** In bytes: 16, 32 or 64; absent means 32. */
  readonly length?: number;
}

/** What GenerateDataKey returns. */
export interface GenerateDataKeyResponse {
  /** The data key. Use it, then forget it (`fill(0)`). */
  readonly plaintext: Buffer;
  /** Keep this one with the data; give it to Decrypt to have the plaintext back. */
  readonly wrappedDataKey: Buffer;
  /** The version that wrapped it. */
  readonly keyVersion: string;
  /** CRC32C of `plaintext`. The client has compared them. */
  readonly plaintextCrc32c: number;
  /** CRC32C of `wrappedDataKey`. The client has compared them. */
  readonly wrappedDataKeyCrc32c: number;
}

/** Issues a data key for another, who opens it with Decrypt. */
export type GenerateDataKeyWithoutPlaintextRequest = GenerateDataKeyRequest;

/** What GenerateDataKeyWithoutPlaintext returns. */
export type GenerateDataKeyWithoutPlaintextResponse = Omit<
  GenerateDataKeyResponse,
  'plaintext' | 'plaintextCrc32c'
>;

/** Brings a ciphertext or wrapped data key under a key's primary version, and to another encryption context if wanted. */
export interface ReEncryptRequest {
  /** The key to bring it under, `tenants/{tenant}/keys/{key}`: of the same tenant, the same key or another. */
  readonly name: string;
  readonly ciphertext: Uint8Array;
  /** The encryption context that it has. */
  readonly sourceEncryptionContext?: EncryptionContext;
  /** The encryption context that it is to have: absent is none, not the one that it has. */
  readonly destinationEncryptionContext?: EncryptionContext;
  /** The key that the ciphertext must be of; any key of the tenant unless given. */
  readonly sourceKey?: string;
  /** CRC32C of `ciphertext`, as it was kept with it; the client makes it otherwise. */
  readonly ciphertextCrc32c?: number;
}

/** What ReEncrypt returns. */
export interface ReEncryptResponse {
  /** As long as what was given. */
  readonly ciphertext: Buffer;
  /** The version that it was under. */
  readonly sourceKeyVersion: string;
  /** The version that it is under now. */
  readonly keyVersion: string;
  /** CRC32C of `ciphertext`, to be kept with it. The client has compared them. */
  readonly ciphertextCrc32c: number;
  /** Whether the service has compared the ciphertext with its checksum; true unless checksums are off. */
  readonly verifiedCiphertextCrc32c: boolean;
}

/** Asks for random bytes. */
export interface GenerateRandomBytesRequest {
  /** On whose behalf: `tenants/{tenant}`. */
  readonly parent: string;
  /** 1 to 1,024. */
  readonly length: number;
}

/** What GenerateRandomBytes returns. */
export interface GenerateRandomBytesResponse {
  readonly data: Buffer;
  /** CRC32C of `data`. The client has compared them. */
  readonly dataCrc32c: number;
}

/** Many requests of one kind in one call. */
export interface BatchRequest<Request> {
  /** The tenant that every item must be of: `tenants/{tenant}`. */
  readonly parent: string;
  /** 1 to 1,000, as many as one message holds. */
  readonly requests: readonly Request[];
}

/** What became of one item: the answer, or the error that the same call alone would have had. */
export type BatchResult<Response> = { readonly response: Response } | { readonly error: KeywardClientError };
