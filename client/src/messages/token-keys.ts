/**
 * Requests and responses about the keys that live in the HSM token: root keys and the seal key, and
 * how they are replaced.
 */

import type { Change } from './shared.ts';
import type { TokenObjectRole } from './token-status.ts';

/** How a root or seal key stands; `UNSPECIFIED` is a state newer than this client. */
export type TokenKeyState =
  | 'UNSPECIFIED'
  | 'CREATING'
  | 'CREATED'
  | 'CURRENT'
  | 'RETIRED'
  | 'ABANDONED'
  | 'DESTROYING'
  | 'DESTROYED';

/** A root key or seal key in the HSM token, and its life. */
export interface TokenKey {
  /** `tenants/{tenant}/tokenKeys/{uuid}`; the UUID is the object's CKA_ID. */
  readonly name: string;
  readonly role: TokenObjectRole;
  readonly state: TokenKeyState;
  /** When it was recorded, before it was made. */
  readonly createTime: Date;
  /** When it became current; undefined if it never did. */
  readonly activateTime: Date | undefined;
  /** When another one became current in its place. */
  readonly retireTime: Date | undefined;
  /** When it was destroyed in the token. */
  readonly destroyTime: Date | undefined;
  /** Who asked for it; `keyward` for the service itself, empty for `token init`. */
  readonly caller: string;
  /**
   * The job that brings key versions under it: `tenants/{tenant}/rewrapJobs/{job}`; empty if it has
   * started none.
   */
  readonly rewrapJob: string;
  /** How many key versions are wrapped, or sealed, by it, in all tenants; destroyed ones aside. */
  readonly keyVersions: number;
  /** How many other records are sealed by it, in all tenants: how keys stand. 0 for root keys. */
  readonly sealedRecords: number;
}

/** Makes a new root key, and brings every key version under it. */
export interface RotateRootKeyRequest extends Change {
  /** `tenants/system`, whose root key tenants share, or a tenant that has its own. */
  readonly parent: string;
}

/** Makes a new seal key, and seals anew by it every key version's row, and how keys stand. */
export interface RotateSealKeyRequest extends Change {}

/** See {@link TokenKey}. */
export interface GetTokenKeyRequest {
  /** `tenants/{tenant}/tokenKeys/{uuid}`. */
  readonly name: string;
}

/** Asks for root and seal keys. */
export interface ListTokenKeysRequest {
  /** `tenants/system`, for what tenants share, or a tenant that has a root key of its own. */
  readonly parent: string;
}

/** All of them, newest first; they are kept for ever. */
export interface ListTokenKeysResponse {
  readonly tokenKeys: readonly TokenKey[];
}
