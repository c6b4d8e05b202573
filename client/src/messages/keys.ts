/**
 * Requests and responses about keys and their versions: what they are, their schedule, their
 * destruction.
 */

import type { Change, ChangeOfExisting, Destruction, FilteredPage, Strings } from './shared.ts';

/** Whether a key can be used at all; `UNSPECIFIED` is a state newer than this client. */
export type KeyState = 'UNSPECIFIED' | 'ENABLED' | 'DISABLED' | 'DESTROY_SCHEDULED' | 'DESTROYED';

/** What a key version can be used for; `UNSPECIFIED` is a state newer than this client. */
export type KeyVersionState =
  | 'UNSPECIFIED'
  | 'ENABLED'
  | 'DISABLED'
  | 'DESTROY_SCHEDULED'
  | 'DESTROYED';

/** What a key version encrypts with; `UNSPECIFIED` is an algorithm newer than this client. */
export type Algorithm = 'UNSPECIFIED' | 'HMAC_SHA512_AES_256_GCM';

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
  /** After how long it is rotated by itself; undefined for never. */
  readonly rotationPeriodSeconds: number | undefined;
  /** When it is rotated by itself next; undefined for never. */
  readonly nextRotationTime: Date | undefined;
  /** After how many encryptions and data keys its primary version is replaced; 0 for never. */
  readonly rotationUsageLimit: number;
  /** Whether the service leaves it alone: doesn't rotate it by itself, re-wrap or destroy. */
  readonly maintenancePaused: boolean;
  /** When it is to be destroyed, or was to be; undefined unless scheduled. */
  readonly destroyTime: Date | undefined;
  /** When it was destroyed. */
  readonly destroyEventTime: Date | undefined;
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
  /** When it is to be destroyed, or was to be; undefined unless scheduled. */
  readonly destroyTime: Date | undefined;
  /** When it was destroyed. */
  readonly destroyEventTime: Date | undefined;
  /** How it was used; only from GetKeyVersion and ListKeyVersions. */
  readonly usage: KeyVersionUsage | undefined;
}

/** How often and when a version was used by callers: at most a minute late, and never too high. */
export interface KeyVersionUsage {
  /** Encryptions and data keys issued. */
  readonly encryptOperations: number;
  /** When the last of them was; undefined if none is known. */
  readonly lastEncryptTime: Date | undefined;
  /** Ciphertexts and data keys opened. */
  readonly decryptOperations: number;
  /** When the last of them was; undefined if none is known. */
  readonly lastDecryptTime: Date | undefined;
  /** Up to when every replica that runs has reported what it did. */
  readonly completeTime: Date | undefined;
}

/** See {@link Key}. */
export interface CreateKeyRequest extends Change {
  /** `tenants/{tenant}`. */
  readonly parent: string;
  /** The last part of the new key's name. */
  readonly keyId: string;
  readonly description?: string;
  readonly labels?: Strings;
  /** After how long it is rotated by itself: a day to ten years. Absent: never. */
  readonly rotationPeriodSeconds?: number;
  /** When first; absent for one period from now. */
  readonly nextRotationTime?: Date;
  /**
   * After how many encryptions and data keys its primary version is replaced. Absent or 0: never.
   */
  readonly rotationUsageLimit?: number;
}

/** See {@link Key}. */
export interface GetKeyRequest {
  /** `tenants/{tenant}/keys/{key}`. */
  readonly name: string;
}

/** One page of a tenant's keys. */
export interface ListKeysRequest extends FilteredPage {
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
export interface ListKeyVersionsRequest extends FilteredPage {
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

/** Changes a key's description, labels or schedule. */
export interface UpdateKeyRequest extends Change {
  /** Which key, and what its fields are to be. */
  readonly key: {
    /** `tenants/{tenant}/keys/{key}`. */
    readonly name: string;
    readonly description?: string;
    /** Replaced as a whole. */
    readonly labels?: Strings;
    /** After how long it is rotated by itself: a day to ten years; null for never. */
    readonly rotationPeriodSeconds?: number | null;
    /** When next. With a new period and without this, one period from now. */
    readonly nextRotationTime?: Date | null;
    /** After how many encryptions and data keys its primary version is replaced; 0 for never. */
    readonly rotationUsageLimit?: number;
    /** Whether the service is to leave it alone. */
    readonly maintenancePaused?: boolean;
    /** As it was last seen, or absent for whatever it is now. */
    readonly etag?: string;
  };
  /**
   * Which fields, by their names in the contract, as in `rotation_period`. Absent: those that `key`
   * has.
   */
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

/** Schedules one version for destruction; from now on it can't be used. */
export interface ScheduleKeyVersionDestructionRequest extends Destruction {
  /** `tenants/{tenant}/keys/{key}/versions/{version}`. */
  readonly name: string;
}

/** What ScheduleKeyVersionDestruction returns. */
export interface ScheduleKeyVersionDestructionResponse {
  /** The version as it is now. */
  readonly keyVersion: KeyVersion;
  /** What is lost when the time has come. */
  readonly impact: DestructionImpact;
}

/** Undoes ScheduleKeyVersionDestruction while that is possible: the version is then disabled. */
export interface RestoreKeyVersionRequest extends ChangeOfExisting {
  /** `tenants/{tenant}/keys/{key}/versions/{version}`. */
  readonly name: string;
}

/**
 * Schedules a key for destruction, with its versions and stored data keys; from now on it can't be
 * used.
 */
export interface ScheduleKeyDestructionRequest extends Destruction {
  /** `tenants/{tenant}/keys/{key}`. */
  readonly name: string;
}

/** What ScheduleKeyDestruction returns. */
export interface ScheduleKeyDestructionResponse {
  /** The key as it is now. */
  readonly key: Key;
  /** What is lost when the time has come. */
  readonly impact: DestructionImpact;
}

/** Undoes ScheduleKeyDestruction while that is possible: the key is then disabled. */
export interface RestoreKeyRequest extends ChangeOfExisting {
  /** `tenants/{tenant}/keys/{key}`. */
  readonly name: string;
}

/** What a destruction takes with it. */
export interface DestructionImpact {
  /** How many versions' material is erased. */
  readonly keyVersions: number;
  /** How many stored data keys are deleted. */
  readonly storedDataKeys: number;
  /**
   * How the versions were used, all together. Ciphertexts that callers keep are not counted
   * anywhere.
   */
  readonly usage: KeyVersionUsage;
  /** When it is destroyed, or would be. */
  readonly destroyTime: Date;
  /** What the real request must carry. */
  readonly etag: string;
  /** What destruction means for backups, in words for an administrator. */
  readonly notice: string;
}
