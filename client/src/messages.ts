/**
 * The requests and responses of the public API, in friendly types.
 *
 * Owns their names and shapes only: field names are those of `proto/keyward/v1` in camel case, whose comments say what
 * each means and which limits it has; the limits are checked by the service, in one place, and not here. `wire.ts`
 * converts, and its types check that nothing here has drifted from the contract.
 */

/**
 * Strings that are authenticated but not secret, and must be given again, identical, to decrypt. Order doesn't matter;
 * absent is the same as empty. A `Map`, or an object's own enumerable properties, whatever their names.
 */
export type EncryptionContext = Readonly<Record<string, string>> | ReadonlyMap<string, string>;

/** What a key version can be used for; `UNSPECIFIED` is a state newer than this client. */
export type KeyVersionState = 'UNSPECIFIED' | 'ENABLED';

/** What a key version encrypts with; `UNSPECIFIED` is an algorithm newer than this client. */
export type Algorithm = 'UNSPECIFIED' | 'HMAC_SHA512_AES_256_GCM';

/** The unit of isolation. */
export interface Tenant {
  /** `tenants/{tenant}`. */
  readonly name: string;
  /** Random and immutable, lower-case UUID text. */
  readonly uid: string;
  readonly createTime: Date;
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
}

/** One generation of a key's material. */
export interface KeyVersion {
  /** `tenants/{tenant}/keys/{key}/versions/{version}`. */
  readonly name: string;
  readonly state: KeyVersionState;
  readonly algorithm: Algorithm;
  readonly createTime: Date;
}

/** See {@link Tenant}. */
export interface CreateTenantRequest {
  /** The last part of the new tenant's name. */
  readonly tenantId: string;
}

/** See {@link Tenant}. */
export interface GetTenantRequest {
  /** `tenants/{tenant}`. */
  readonly name: string;
}

/** Which page of a list. */
interface Page {
  /** 1 to 1,000; absent means 100. */
  readonly pageSize?: number;
  /** `nextPageToken` of the page before, from the same request; absent for the first. */
  readonly pageToken?: string;
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
export interface CreateKeyRequest {
  /** `tenants/{tenant}`. */
  readonly parent: string;
  /** The last part of the new key's name. */
  readonly keyId: string;
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
export interface RotateKeyRequest {
  /** `tenants/{tenant}/keys/{key}`. */
  readonly name: string;
}

/** Encrypts under the key's primary version. */
export interface EncryptRequest {
  /** `tenants/{tenant}/keys/{key}`. */
  readonly name: string;
  /** 0 to 65,536 bytes. */
  readonly plaintext: Uint8Array;
  readonly encryptionContext?: EncryptionContext;
}

/** What Encrypt returns. */
export interface EncryptResponse {
  /** 116 bytes more than the plaintext. */
  readonly ciphertext: Buffer;
  /** The version that encrypted. */
  readonly keyVersion: string;
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
}

/** What Decrypt returns. */
export interface DecryptResponse {
  /** Yours alone: `fill(0)` after use overwrites the bytes as they came out of the transport. */
  readonly plaintext: Buffer;
  /** The version that had encrypted it. */
  readonly keyVersion: string;
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
}
