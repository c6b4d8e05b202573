/**
 * The ranges of re-wrap jobs, whatever is in them: planned, leased, counted on.
 *
 * Invariants: a range is worked on by whoever has leased it last, and a stale holder writes
 * nothing, because each write goes together with counting the range on ({@link moveOn}), under the
 * fence that the lease was given; no row lock is held while an agent works. Locks are taken in the
 * order key, token key, job, range, what is re-wrapped. What is stale, and how it is read and
 * written, is in `stale-data-keys.ts` and `stale-key-versions.ts`: both walk by keyset over the
 * primary key, since what is re-wrapped must not be in the way of the next pass: taking stale rows
 * with SKIP LOCKED fell from 53,000 rows a second to 12,500 on the second pass (measured).
 */
import type { JobId, KeyId, TenantId } from '../../ids.ts';
import { isOver } from '../core/leases.ts';
import type { Deadline, Tx } from '../core/transaction.ts';
import type { Store } from '../store.ts';
import { MAY_BE_USED } from './maintenance.ts';
import type { JobKind } from './rewrap-jobs.ts';

/** A frozen replica's ranges are taken over after this long; each batch renews it. */
const LEASE = "interval '15 seconds'";
const MAX_FAILURES = 100;

/** A range, leased. */
export interface Lease {
  /** Of the job. */
  readonly tenantId: TenantId;
  readonly jobId: JobId;
  readonly kind: JobKind;
  readonly range: number;
  readonly fence: string;
  /** Whose data keys are in it; undefined where key versions are. */
  readonly key?: LeasedKey;
  /** What is left of it: what is called so, or comes behind … */
  readonly afterName: string;
  /** … up to this. */
  readonly untilName: string;
  /** The key is destroyed or to be: nothing of it is worth re-wrapping. */
  readonly abandoned: boolean;
}

/** A key whose data keys are re-wrapped. */
export interface LeasedKey {
  readonly tenantId: TenantId;
  readonly keyId: KeyId;
  /** The last parts of its name. */
  readonly tenant: string;
  readonly key: string;
}

/** What became of a batch, for the job's books. */
export interface Progress {
  readonly done: number;
  readonly failed: readonly { readonly resource: string; readonly reason: string }[];
  /** Up to where the range has been worked through. */
  readonly afterName: string;
  /** Whether that was the end of it. */
  readonly finished: boolean;
}

/** A job that isn't planned to its end, and up to where it is. */
export interface PlannedJob {
  readonly tenantId: TenantId;
  readonly jobId: JobId;
  readonly scopeTenantId: TenantId | null;
  readonly scopeKeyId: KeyId | null;
  readonly frontier: Frontier;
}

/** How far a job is planned: within a key, behind the data key `name`; or as the planner says. */
export interface Frontier {
  readonly tenantId: TenantId | null;
  readonly keyId: KeyId | null;
  readonly name: string | null;
}

/** The next step of a plan: the frontier behind it, and how much stale there is up to there. */
export interface PlanStep {
  readonly frontier: Frontier;
  /** Absent where nothing stale is. */
  readonly range?: {
    readonly tenantId: TenantId | null;
    readonly keyId: KeyId | null;
    readonly afterName: string;
    readonly untilName: string;
    readonly total: number;
  };
}

/** Finds the next step, of at most `size` stale things; undefined at the end. */
export type Planner = (tx: Tx, job: PlannedJob, size: number) => Promise<PlanStep | undefined>;

interface PlanRow {
  tenant_id: TenantId;
  job_id: JobId;
  kind: JobKind;
  scope_tenant_id: TenantId | null;
  scope_key_id: KeyId | null;
  frontier_tenant_id: TenantId | null;
  frontier_key_id: KeyId | null;
  frontier_name: string | null;
}

/**
 * Makes the next range, of at most `size` stale things, of a job that isn't planned to its end.
 * Returns whether there was anything to plan: not while another replica is at it.
 */
export function planRange(
  store: Store,
  call: Deadline,
  size: number,
  planners: Readonly<Record<JobKind, Planner>>,
): Promise<boolean> {
  return store.reconcile(call, async (tx) => {
    const [row] = await tx.query<PlanRow>(
      `SELECT tenant_id, job_id, kind, scope_tenant_id, scope_key_id, frontier_tenant_id, frontier_key_id, frontier_name
       FROM rewrap_jobs WHERE state = 'RUNNING' AND NOT planned ORDER BY job_id LIMIT 1 FOR UPDATE SKIP LOCKED`,
    );
    if (row === undefined) return false;
    const job = fromPlanRow(row);
    const step = await planners[row.kind](tx, job, size);
    if (step === undefined) {
      await tx.query('UPDATE rewrap_jobs SET planned = true WHERE tenant_id = $1 AND job_id = $2', [
        job.tenantId,
        job.jobId,
      ]);
    } else await recordStep(tx, job, step);
    return true;
  });
}

function fromPlanRow(row: PlanRow): PlannedJob {
  return {
    tenantId: row.tenant_id,
    jobId: row.job_id,
    scopeTenantId: row.scope_tenant_id,
    scopeKeyId: row.scope_key_id,
    frontier: {
      tenantId: row.frontier_tenant_id,
      keyId: row.frontier_key_id,
      name: row.frontier_name,
    },
  };
}

async function recordStep(
  tx: Tx,
  { tenantId, jobId }: PlannedJob,
  { frontier, range }: PlanStep,
): Promise<void> {
  if (range !== undefined) {
    await tx.query(
      `INSERT INTO rewrap_ranges (tenant_id, job_id, range, key_tenant_id, key_id, after_name, until_name, total)
       SELECT tenant_id, job_id, ranges + 1, $3, $4, $5, $6, $7 FROM rewrap_jobs WHERE tenant_id = $1 AND job_id = $2`,
      [tenantId, jobId, range.tenantId, range.keyId, range.afterName, range.untilName, range.total],
    );
  }
  await tx.query(
    `UPDATE rewrap_jobs SET frontier_tenant_id = $3, frontier_key_id = $4, frontier_name = $5, total = total + $6,
       ranges = ranges + CASE WHEN $6 > 0 THEN 1 ELSE 0 END
     WHERE tenant_id = $1 AND job_id = $2`,
    [tenantId, jobId, frontier.tenantId, frontier.keyId, frontier.name, range?.total ?? 0],
  );
}

interface LeaseRow {
  tenant_id: TenantId;
  job_id: JobId;
  kind: JobKind;
  range: number;
  fence: string;
  key_tenant_id: TenantId | null;
  key_id: KeyId | null;
  tenant: string | null;
  key: string | null;
  after_name: string;
  until_name: string;
  abandoned: boolean;
}

/**
 * Leases a range that nobody works on and that may be worked on now; undefined when there is none.
 */
export async function leaseRange(store: Store, call: Deadline): Promise<Lease | undefined> {
  const [row] = await store.reconcile(call, (tx) =>
    tx.query<LeaseRow>(
      // Materialized, so that it is looked for once: joined as it is, the planner may do so for
      // every range, and each time finds another one that isn't locked.
      `WITH c AS MATERIALIZED (
         SELECT g.tenant_id, g.job_id, g.range, j.kind, t.name AS tenant, k.name AS key,
           k.state IN ('DESTROY_SCHEDULED', 'DESTROYED') IS TRUE AS abandoned
         FROM rewrap_ranges g
           JOIN rewrap_jobs j ON j.tenant_id = g.tenant_id AND j.job_id = g.job_id
           LEFT JOIN keys k ON k.tenant_id = g.key_tenant_id AND k.key_id = g.key_id
           LEFT JOIN tenants t ON t.tenant_id = k.tenant_id
           LEFT JOIN key_versions v ON v.tenant_id = k.tenant_id AND v.key_id = k.key_id AND v.version = k.primary_version
         WHERE NOT g.finished AND ${isOver('g.leased_until', LEASE)} AND j.state = 'RUNNING'
           AND ((v.state = 'ENABLED' AND ${MAY_BE_USED}) OR k.state IN ('DESTROY_SCHEDULED', 'DESTROYED')
             OR (j.kind = 'key-versions' AND NOT (SELECT paused FROM maintenance)))
         ORDER BY g.job_id, g.range LIMIT 1 FOR UPDATE OF g SKIP LOCKED)
       UPDATE rewrap_ranges r SET fence = r.fence + 1, leased_until = clock_timestamp() + ${LEASE}
       FROM c WHERE r.tenant_id = c.tenant_id AND r.job_id = c.job_id AND r.range = c.range
       RETURNING r.tenant_id, r.job_id, c.kind, r.range, r.fence, r.key_tenant_id, r.key_id, c.tenant, c.key, r.after_name,
         r.until_name, c.abandoned`,
    ),
  );
  return row && fromLeaseRow(row);
}

function fromLeaseRow(row: LeaseRow): Lease {
  const { key_tenant_id: tenantId, key_id: keyId, tenant, key } = row;
  const isOfKey = tenantId !== null && keyId !== null && tenant !== null && key !== null;
  return {
    tenantId: row.tenant_id,
    jobId: row.job_id,
    kind: row.kind,
    range: row.range,
    fence: row.fence,
    ...(isOfKey ? { key: { tenantId, keyId, tenant, key } } : {}),
    afterName: row.after_name,
    untilName: row.until_name,
    abandoned: row.abandoned,
  };
}

/**
 * Closes a range of which nothing is worth doing. Returns whether the lease still was the holder's.
 */
export function closeRange(store: Store, call: Deadline, lease: Lease): Promise<boolean> {
  const { untilName } = lease;
  return store.reconcile(call, (tx) =>
    moveOn(tx, lease, { done: 0, failed: [], afterName: untilName, finished: true }),
  );
}

/** Gives a range back before its end, so that anybody can go on with it at once. */
export async function releaseRange(store: Store, call: Deadline, lease: Lease): Promise<void> {
  await store.reconcile(call, (tx) =>
    tx.query(
      `UPDATE rewrap_ranges SET leased_until = '-infinity'
       WHERE tenant_id = $1 AND job_id = $2 AND range = $3 AND fence = $4`,
      [lease.tenantId, lease.jobId, lease.range, lease.fence],
    ),
  );
}

/**
 * Counts the range on and renews its lease, if it is still the holder's and the job runs; names
 * what failed. Returns whether it was: nothing may be written else.
 */
export async function moveOn(tx: Tx, lease: Lease, progress: Progress): Promise<boolean> {
  // What is finished was dealt with, also what others had re-wrapped or deleted before.
  const moved = await tx.query(
    `UPDATE rewrap_ranges SET after_name = $5, failed = failed + $7, finished = $8,
       done = CASE WHEN $8 THEN greatest(done + $6, total - failed - $7) ELSE done + $6 END,
       leased_until = clock_timestamp() + ${LEASE}
     WHERE tenant_id = $1 AND job_id = $2 AND range = $3 AND fence = $4 AND NOT finished
     RETURNING 1`,
    [
      lease.tenantId,
      lease.jobId,
      lease.range,
      lease.fence,
      progress.afterName,
      progress.done,
      progress.failed.length,
      progress.finished,
    ],
  );
  if (moved.length === 0) return false;
  await insertFailures(tx, lease, progress);
  return true;
}

async function insertFailures(
  tx: Tx,
  { tenantId, jobId }: Lease,
  { failed }: Pick<Progress, 'failed'>,
): Promise<void> {
  if (failed.length === 0) return;
  await tx.query(
    `INSERT INTO rewrap_failures (tenant_id, job_id, resource, reason)
     SELECT $1, $2, f.resource, f.reason FROM unnest($3::text[], $4::text[]) AS f (resource, reason)
     LIMIT greatest(0, ${MAX_FAILURES} - (SELECT count(*) FROM rewrap_failures WHERE tenant_id = $1 AND job_id = $2))
     ON CONFLICT DO NOTHING`,
    [tenantId, jobId, failed.map(({ resource }) => resource), failed.map(({ reason }) => reason)],
  );
}
