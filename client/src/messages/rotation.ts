/**
 * Requests and responses about what rotation leaves to be done, and what was done: re-wrap jobs,
 * the history of rotations.
 */

import type { Change, FilteredPage, Page } from './shared.ts';

/** Why a key was rotated, or a job was started; `UNSPECIFIED` is a cause newer than this client. */
export type RotationCause = 'UNSPECIFIED' | 'SCHEDULE' | 'REQUEST' | 'USAGE';

/** How a re-wrap job stands; `UNSPECIFIED` is a state newer than this client. */
export type RewrapJobState =
  | 'UNSPECIFIED'
  | 'RUNNING'
  | 'SUCCEEDED'
  | 'PARTIAL'
  | 'CANCELLED'
  | 'SUPERSEDED';

/** What a re-wrap job brings up to date; `UNSPECIFIED` is a kind newer than this client. */
export type RewrapJobKind = 'UNSPECIFIED' | 'DATA_KEYS' | 'KEY_VERSIONS';

/** One rotation of a key. */
export interface Rotation {
  /** The primary before: `tenants/{tenant}/keys/{key}/versions/{version}`. */
  readonly fromVersion: string;
  /** The primary from then on. */
  readonly toVersion: string;
  readonly rotateTime: Date;
  readonly cause: RotationCause;
  /** Who asked for it; `keyward` for the service itself. */
  readonly caller: string;
  /** How long it took to make the version, prove it and make it the primary. */
  readonly durationSeconds: number | undefined;
  /** The job that it started: `tenants/{tenant}/rewrapJobs/{job}`. */
  readonly rewrapJob: string;
  /** How that job stands. */
  readonly rewrapState: RewrapJobState;
  /** How many stored data keys the job has brought under the new version. */
  readonly rewrapped: number;
  /** How many it has left to do; 0 when it has ended. */
  readonly left: number;
  /** How many it could not open. */
  readonly failed: number;
}

/**
 * A job that brings stored data keys under their keys' primary versions, or key versions under the
 * current root key.
 */
export interface RewrapJob {
  /** `tenants/{tenant}/rewrapJobs/{job}`. */
  readonly name: string;
  /**
   * What it is for: `tenants/{tenant}/keys/{key}`, `tenants/{tenant}`, or `tenants/-` for all
   * tenants.
   */
  readonly scope: string;
  readonly state: RewrapJobState;
  /** Why it was started. */
  readonly cause: RotationCause;
  /** Who started it; `keyward` for the service itself. */
  readonly caller: string;
  readonly createTime: Date;
  /** When it ended; undefined while it is under way. */
  readonly endTime: Date | undefined;
  /** How many it has found that are not up to date. */
  readonly total: number;
  /** Whether it has looked everywhere, so that `total` will not grow. */
  readonly totalIsFinal: boolean;
  /** How many of them are done. */
  readonly done: number;
  readonly left: number;
  /** How many could not be opened. */
  readonly failed: number;
  /** How many were done each second: over the whole job, or of late when it is watched. */
  readonly rate: number;
  /** How long the rest will take at that rate; undefined when nobody can tell. */
  readonly timeLeftSeconds: number | undefined;
  /** Those that could not be opened, up to 100 of them; none in a list. */
  readonly failures: readonly RewrapFailure[];
  /** Whether maintenance of all it is for is paused, so that it stands still. */
  readonly paused: boolean;
  /** What it brings up to date. Counts are of that. */
  readonly kind: RewrapJobKind;
}

/** Something that a job could not bring up to date. */
export interface RewrapFailure {
  /**
   * `tenants/{tenant}/keys/{key}/dataKeys/{data_key}`, or
   * `tenants/{tenant}/keys/{key}/versions/{version}`.
   */
  readonly resource: string;
  /** As in an error: DECRYPTION_FAILED, STORED_ROW_CORRUPT or KEY_VERSION_NOT_ENABLED. */
  readonly reason: string;
  readonly time: Date;
}

/** One page of a key's rotations. */
export interface ListRotationsRequest extends Page {
  /** `tenants/{tenant}/keys/{key}`. */
  readonly parent: string;
}

/** One page of a key's rotations, newest first. */
export interface ListRotationsResponse {
  readonly rotations: readonly Rotation[];
  /** Empty on the last page. */
  readonly nextPageToken: string;
}

/** Starts a job by hand. */
export interface CreateRewrapJobRequest extends Change {
  /** `tenants/{tenant}/keys/{key}`, `tenants/{tenant}`, or `tenants/-` for all tenants. */
  readonly scope: string;
  /**
   * What is to be brought up to date. Absent: stored data keys; key versions only of one tenant or
   * of all.
   */
  readonly kind?: Exclude<RewrapJobKind, 'UNSPECIFIED'>;
}

/** See {@link RewrapJob}. */
export interface GetRewrapJobRequest {
  /** `tenants/{tenant}/rewrapJobs/{job}`. */
  readonly name: string;
}

/** One page of a tenant's jobs. */
export interface ListRewrapJobsRequest extends FilteredPage {
  /** `tenants/{tenant}`; `tenants/system` has those over all tenants. */
  readonly parent: string;
}

/** One page of a tenant's jobs, newest first. */
export interface ListRewrapJobsResponse {
  readonly rewrapJobs: readonly RewrapJob[];
  /** Empty on the last page. */
  readonly nextPageToken: string;
}

/** Stops a job. */
export interface CancelRewrapJobRequest extends Change {
  /** `tenants/{tenant}/rewrapJobs/{job}`. */
  readonly name: string;
}

/** Follows a job to its end. */
export interface WatchRewrapJobRequest {
  /** `tenants/{tenant}/rewrapJobs/{job}`. */
  readonly name: string;
}
