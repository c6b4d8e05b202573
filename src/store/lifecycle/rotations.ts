/**
 * The history of rotations, as rows: only ever added to.
 *
 * How many things a rotation re-wrapped is its job's to say, and read from there.
 */
import type { JobId, KeyId, TenantId } from '../../ids.ts';
import { atMost } from '../core/batches.ts';
import type { Tx } from '../core/transaction.ts';
import { JOB_PROGRESS, type JobState, type RotationCause } from './rewrap-jobs.ts';

/** What is written of a rotation; the database adds when. */
export interface NewRotation {
  readonly tenantId: TenantId;
  readonly keyId: KeyId;
  readonly fromVersion: number;
  readonly toVersion: number;
  readonly cause: RotationCause;
  readonly caller: string;
  /** How long making, proving and storing the version took. */
  readonly durationMs: number;
  /** The job that it started. */
  readonly jobId: JobId;
}

export interface RotationRecord extends NewRotation {
  readonly rotatedAt: Date;
  readonly rewrapState: JobState;
  readonly rewrapped: number;
  /** 0 once the job has ended. */
  readonly left: number;
  readonly failed: number;
}

export async function insertRotation(tx: Tx, rotation: NewRotation): Promise<void> {
  await tx.query(
    `INSERT INTO rotations (tenant_id, key_id, from_version, to_version, cause, caller, duration_ms, job_id)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
    [
      rotation.tenantId,
      rotation.keyId,
      rotation.fromVersion,
      rotation.toVersion,
      rotation.cause,
      rotation.caller,
      rotation.durationMs,
      rotation.jobId,
    ],
  );
}

interface Row {
  from_version: number;
  to_version: number;
  cause: RotationCause;
  caller: string;
  rotated_at: Date;
  duration_ms: number;
  job_id: JobId;
  state: JobState;
  total: number;
  done: number;
  failed: number;
}

/** At most `limit` rotations, newest first, beginning below the version `before`. */
export async function listRotations(
  tx: Tx,
  tenantId: TenantId,
  keyId: KeyId,
  page: { readonly before?: number; readonly limit: number },
): Promise<RotationRecord[]> {
  const rows = await tx.query<Row>(
    `SELECT r.from_version, r.to_version, r.cause, r.caller, r.rotated_at, r.duration_ms, r.job_id, j.state,
       ${JOB_PROGRESS}
     FROM rotations r JOIN rewrap_jobs j USING (tenant_id, job_id)
     WHERE r.tenant_id = $1 AND r.key_id = $2 AND r.to_version < coalesce($3::bigint, 2147483648)
     ORDER BY r.to_version DESC ${atMost('$4')}`,
    [tenantId, keyId, page.before, page.limit],
  );
  return rows.map((row) => ({
    tenantId,
    keyId,
    fromVersion: row.from_version,
    toVersion: row.to_version,
    cause: row.cause,
    caller: row.caller,
    rotatedAt: row.rotated_at,
    durationMs: row.duration_ms,
    jobId: row.job_id,
    rewrapState: row.state,
    rewrapped: row.done,
    left: row.state === 'RUNNING' ? row.total - row.done - row.failed : 0,
    failed: row.failed,
  }));
}
