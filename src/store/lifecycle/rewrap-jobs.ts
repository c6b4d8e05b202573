/**
 * Re-wrap jobs, as rows: started, looked at, ended.
 *
 * Invariant: while a job runs, its progress is in its ranges; when it ends, it is in the job, and
 * the ranges are gone, all in one transaction. How ranges are made and worked on is in
 * `rewrap-ranges.ts`.
 */
import type { Call } from '../../call.ts';
import { type JobId, type KeyId, newOrderedId, type TenantId } from '../../ids.ts';
import { atMost } from '../core/batches.ts';
import { type Condition, type FilterColumns, whereClause } from '../core/conditions.ts';
import type { Deadline, Tx } from '../core/transaction.ts';
import type { Store } from '../store.ts';

export type JobState = 'RUNNING' | 'SUCCEEDED' | 'PARTIAL' | 'CANCELLED' | 'SUPERSEDED';

/** Why a key was rotated, or a job was started. */
export type RotationCause = 'schedule' | 'request' | 'usage';

/** What a job brings up to date. */
export type JobKind = 'data-keys' | 'key-versions';

/** What is written of a new job. */
export interface NewJob {
  /** The tenant that it belongs to: `system` for a job over all. */
  readonly tenantId: TenantId;
  readonly jobId: JobId;
  readonly kind: JobKind;
  /** The resource's name, as `tenants/a/keys/b`, `tenants/a` or `tenants/-`. */
  readonly scope: string;
  /** Null: all tenants. */
  readonly scopeTenantId: TenantId | null;
  /** Null: all keys. */
  readonly scopeKeyId: KeyId | null;
  readonly cause: RotationCause;
}

export interface JobRecord extends Pick<NewJob, 'tenantId' | 'jobId' | 'kind' | 'scope' | 'cause'> {
  readonly caller: string;
  readonly state: JobState;
  /** By the database's clock, as all times here. */
  readonly createdAt: Date;
  readonly endedAt: Date | null;
  /** How long it has run, in milliseconds, by the database's clock. */
  readonly elapsedMs: number;
  /** Whether everything was looked at, so that the total stays as it is. */
  readonly planned: boolean;
  readonly total: number;
  readonly done: number;
  readonly failed: number;
  /** Whether it stands still because of a switch. */
  readonly paused: boolean;
}

/** What of a job could not be done. */
export interface JobFailure {
  /** The data key's or key version's full name. */
  readonly resource: string;
  readonly reason: string;
  readonly at: Date;
}

interface Row {
  tenant_id: TenantId;
  job_id: JobId;
  kind: JobKind;
  scope: string;
  cause: RotationCause;
  caller: string;
  state: JobState;
  created_at: Date;
  ended_at: Date | null;
  elapsed_ms: number;
  planned: boolean;
  total: number;
  done: number;
  failed: number;
  paused: boolean;
}

const inRanges = (column: 'done' | 'failed') =>
  `CASE WHEN j.state <> 'RUNNING' THEN j.${column} ELSE (SELECT coalesce(sum(g.${column}), 0)
     FROM rewrap_ranges g WHERE g.tenant_id = j.tenant_id AND g.job_id = j.job_id) END::float8 AS ${column}`;

/** How far a `rewrap_jobs j` is: `total`, `done` and `failed`. */
export const JOB_PROGRESS = `j.total::float8 AS total, ${inRanges('done')}, ${inRanges('failed')}`;

const SELECT_JOBS = `SELECT j.tenant_id, j.job_id, j.kind, j.scope, j.cause, j.caller, j.state, j.created_at, j.ended_at,
    (extract(epoch FROM coalesce(j.ended_at, clock_timestamp()) - j.created_at) * 1000)::float8 AS elapsed_ms,
    j.planned, ${JOB_PROGRESS},
    j.state = 'RUNNING' AND ((SELECT paused FROM maintenance) OR EXISTS (SELECT FROM keys k
      WHERE k.tenant_id = j.scope_tenant_id AND k.key_id = j.scope_key_id
        AND (k.maintenance_paused OR k.state <> 'ENABLED'))) AS paused
  FROM rewrap_jobs j`;

function fromRow(row: Row): JobRecord {
  return {
    tenantId: row.tenant_id,
    jobId: row.job_id,
    kind: row.kind,
    scope: row.scope,
    cause: row.cause,
    caller: row.caller,
    state: row.state,
    createdAt: row.created_at,
    endedAt: row.ended_at,
    elapsedMs: row.elapsed_ms,
    planned: row.planned,
    // A rotation during the job can put more into its ranges than were there when they were made.
    total: Math.max(row.total, row.done + row.failed),
    done: row.done,
    failed: row.failed,
    paused: row.paused,
  };
}

/**
 * A new job's id, by the database's clock: a replica whose own is wrong must not put its jobs
 * before or behind all others.
 */
export async function newJobId(tx: Tx): Promise<JobId> {
  const [row] = await tx.query<{ now: number }>(
    'SELECT (extract(epoch FROM clock_timestamp()) * 1000)::float8 AS now',
  );
  if (row === undefined) throw new Error('the database has no time');
  return newOrderedId(row.now);
}

export async function insertJob(tx: Tx, call: Pick<Call, 'caller'>, job: NewJob): Promise<void> {
  await tx.query(
    `INSERT INTO rewrap_jobs (tenant_id, job_id, kind, scope, scope_tenant_id, scope_key_id, cause, caller)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
    [
      job.tenantId,
      job.jobId,
      job.kind,
      job.scope,
      job.scopeTenantId,
      job.scopeKeyId,
      job.cause,
      call.caller,
    ],
  );
}

/** One job. `jobId` is a UUID. */
export async function findJob(
  tx: Tx,
  tenantId: TenantId,
  jobId: JobId,
): Promise<JobRecord | undefined> {
  const [row] = await tx.query<Row>(`${SELECT_JOBS} WHERE j.tenant_id = $1 AND j.job_id = $2`, [
    tenantId,
    jobId,
  ]);
  return row && fromRow(row);
}

/**
 * The newest of the tenant's jobs of that kind and scope, if any; in this transaction nobody else
 * starts one who asks here first.
 */
export async function findLatestJob(
  tx: Tx,
  tenantId: TenantId,
  scope: string,
  kind: JobKind,
): Promise<JobRecord | undefined> {
  await tx.query('SELECT pg_advisory_xact_lock(hashtextextended($1, 1))', [
    `${tenantId} ${kind} ${scope}`,
  ]);
  const [row] = await tx.query<Row>(
    `${SELECT_JOBS} WHERE j.tenant_id = $1 AND j.scope = $2 AND j.kind = $3 ORDER BY j.job_id DESC LIMIT 1`,
    [tenantId, scope, kind],
  );
  return row && fromRow(row);
}

const FILTER: FilterColumns = { state: () => 'j.state' };

/** At most `limit` of the tenant's jobs, newest first, beginning before the job `before`. */
export async function listJobs(
  tx: Tx,
  tenantId: TenantId,
  page: {
    readonly before?: string;
    readonly limit: number;
    readonly conditions?: readonly Condition[];
  },
): Promise<JobRecord[]> {
  const values: unknown[] = [tenantId, page.before, page.limit];
  const where = whereClause(page.conditions ?? [], FILTER, values);
  const rows = await tx.query<Row>(
    `${SELECT_JOBS} WHERE j.tenant_id = $1 AND ($2::uuid IS NULL OR j.job_id < $2)${where}
     ORDER BY j.job_id DESC ${atMost('$3')}`,
    values,
  );
  return rows.map(fromRow);
}

/** What the job could not do, by name: the first hundred that it met. */
export async function listFailures(
  tx: Tx,
  tenantId: TenantId,
  jobId: JobId,
): Promise<JobFailure[]> {
  const rows = await tx.query<{ resource: string; reason: string; at: Date }>(
    `SELECT resource, reason, at FROM rewrap_failures WHERE tenant_id = $1 AND job_id = $2 ORDER BY resource`,
    [tenantId, jobId],
  );
  return rows.map(({ resource, reason, at }) => ({ resource, reason, at }));
}

/**
 * Ends a job that runs; of its ranges only the sums stay. Returns how, if it was this transaction
 * that ended it. `FINISHED`: only if all of it is done, as SUCCEEDED or PARTIAL.
 */
export async function endJob(
  tx: Tx,
  tenantId: TenantId,
  jobId: JobId,
  how: 'FINISHED' | 'CANCELLED' | 'SUPERSEDED',
): Promise<JobState | undefined> {
  // First the job, alone: whoever makes ranges holds it, so that the next statement sees all of
  // them.
  const [running] = await tx.query<{ planned: boolean }>(
    `SELECT planned FROM rewrap_jobs WHERE tenant_id = $1 AND job_id = $2 AND state = 'RUNNING' FOR UPDATE`,
    [tenantId, jobId],
  );
  if (running === undefined || (how === 'FINISHED' && !running.planned)) return undefined;
  const [ended] = await tx.query<{ state: JobState }>(
    `WITH gone AS (
       DELETE FROM rewrap_ranges WHERE tenant_id = $1 AND job_id = $2 AND ($3 <> 'FINISHED' OR NOT EXISTS (
         SELECT FROM rewrap_ranges o WHERE o.tenant_id = $1 AND o.job_id = $2 AND NOT o.finished))
       RETURNING done, failed),
     sums AS (SELECT coalesce(sum(done), 0) AS done, coalesce(sum(failed), 0) AS failed, count(*) AS ranges FROM gone)
     UPDATE rewrap_jobs j SET ended_at = clock_timestamp(), done = sums.done, failed = sums.failed,
       state = CASE WHEN $3 <> 'FINISHED' THEN $3 WHEN sums.failed > 0 THEN 'PARTIAL' ELSE 'SUCCEEDED' END
     FROM sums
     WHERE j.tenant_id = $1 AND j.job_id = $2 AND ($3 <> 'FINISHED' OR sums.ranges = j.ranges)
     RETURNING j.state`,
    [tenantId, jobId, how],
  );
  return ended?.state;
}

/** Ends the jobs for this one key, which a newer rotation or the key's end makes pointless. */
export async function supersedeJobs(tx: Tx, tenantId: TenantId, keyId: KeyId): Promise<void> {
  await supersede(tx, tenantId, 'scope_key_id = $2', keyId);
}

/**
 * Ends the jobs over key versions of that scope, which a newer root or seal key makes pointless.
 */
export async function supersedeVersionJobs(
  tx: Tx,
  tenantId: TenantId,
  scope: string,
): Promise<void> {
  await supersede(tx, tenantId, "kind = 'key-versions' AND scope = $2", scope);
}

/** Ends all of a tenant's jobs: with it, all that they are for goes. */
export async function supersedeTenantJobs(tx: Tx, tenantId: TenantId): Promise<void> {
  await supersede(tx, tenantId, 'scope_tenant_id = $2', tenantId);
}

async function supersede(tx: Tx, tenantId: TenantId, which: string, value: string): Promise<void> {
  const jobs = await tx.query<{ job_id: JobId }>(
    `SELECT job_id FROM rewrap_jobs WHERE tenant_id = $1 AND ${which} AND state = 'RUNNING'`,
    [tenantId, value],
  );
  for (const { job_id: jobId } of jobs) await endJob(tx, tenantId, jobId, 'SUPERSEDED');
}

/** At most `limit` jobs of all tenants of which nothing is left to do but to say so. */
export async function findFinishedJobs(
  store: Store,
  call: Deadline,
  limit: number,
): Promise<Pick<NewJob, 'tenantId' | 'jobId' | 'kind'>[]> {
  const rows = await store.reconcile(call, (tx) =>
    tx.query<{ tenant_id: TenantId; job_id: JobId; kind: JobKind }>(
      `SELECT j.tenant_id, j.job_id, j.kind FROM rewrap_jobs j
       WHERE j.state = 'RUNNING' AND j.planned AND NOT EXISTS (
         SELECT FROM rewrap_ranges g WHERE g.tenant_id = j.tenant_id AND g.job_id = j.job_id AND NOT g.finished)
       LIMIT $1`,
      [limit],
    ),
  );
  return rows.map(({ tenant_id: tenantId, job_id: jobId, kind }) => ({ tenantId, jobId, kind }));
}
