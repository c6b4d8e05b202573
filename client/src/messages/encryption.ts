/**
 * Requests and responses of the data plane: encryption, data keys that the caller keeps, random
 * bytes, batches.
 */

import type { KeywardClientError } from '../errors.ts';
import type { EncryptionContext } from './shared.ts';

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
  /**
   * Whether the service has compared the plaintext with its checksum; true unless checksums are
   * off.
   */
  readonly verifiedPlaintextCrc32c: boolean;
}

/** Opens what Encrypt or GenerateDataKey returned. */
export interface DecryptRequest {
  /** The tenant whose key it is: `tenants/{tenant}`. */
  readonly parent: string;
  readonly ciphertext: Uint8Array;
  /** The same as was given to encrypt. */
  readonly encryptionContext?: EncryptionContext;
  /**
   * `tenants/{tenant}/keys/{key}`: a ciphertext of any other key doesn't open. Absent: any key of
   * the tenant.
   */
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
  /**
   * Whether the service has compared the ciphertext with its checksum; true unless checksums are
   * off.
   */
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

/**
 * Brings a ciphertext or wrapped data key under a key's primary version, and to another encryption
 * context if wanted.
 */
export interface ReEncryptRequest {
  /**
   * The key to bring it under, `tenants/{tenant}/keys/{key}`: of the same tenant, the same key or
   * another.
   */
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
  /**
   * Whether the service has compared the ciphertext with its checksum; true unless checksums are
   * off.
   */
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
export type BatchResult<Response> =
  | { readonly response: Response }
  | { readonly error: KeywardClientError };
