/**
 * The ranges of re-wrap jobs, and the data keys in them: planned, leased, read, written.
 *
 * Invariants: a range is worked on by whoever has leased it last, and a stale holder writes nothing, because each write
 * goes together with counting the range on, under the fence that the lease was given; a data key is written only if it is
 * still what was read; no row lock is held while an agent works. Locks are taken in the order key, job, range, data key.
 * Walked by keyset over the primary key, since what is re-wrapped must not be in the way of the next pass: taking stale
 * rows with SKIP LOCKED fell from 53,000 rows a second to 12,500 on the second pass (measured).
 */
import type { DataKeyId, JobId, KeyId, TenantId } from '../ids.ts';
import { fromVersionRow, type KeyVersionRecord, VERSION_COLUMNS, type VersionRow } from './key-versions.ts';
import { findKey, type KeyRecord } from './keys.ts';
import { MAY_BE_USED } from './maintenance.ts';
import type { Deadline, Store, Tx } from './store.ts';

/** A frozen replica's ranges are taken over after this long; each batch renews it. */
const LEASE = "interval '15 seconds'";
const MAX_FAILURES = 100;
/** Sorts before every UUID that is in use. */
const NO_ID = '00000000-0000-0000-0000-000000000000';

/** A range, leased. */
export interface Lease {
  /** Of the job. */
  readonly tenantId: TenantId;
  readonly jobId: JobId;
  readonly range: number;
  readonly fence: string;
  readonly keyTenantId: TenantId;
  readonly keyId: KeyId;
  /** The last parts of the key's name. */
  readonly tenant: string;
  readonly key: string;
  /** What is left of it: names above this one … */
  readonly afterName: string;
  /** … up to this one. */
  readonly untilName: string;
  /** The key is destroyed or to be: nothing of it is worth re-wrapping. */
  readonly abandoned: boolean;
}

/** A stored data key as a batch has read it. */
export interface StaleDataKey {
  /** Which state of the row it is: Postgres gives each its own (xmin), also when the bytes are the same. */
  readonly rowState: string;
  readonly name: string;
  readonly dataKeyId: DataKeyId;
  readonly contextDigest: Buffer;
  readonly ciphertext: Buffer;
  readonly version: number;
}

/** What is to be re-wrapped, with what that takes. */
export interface Batch {
  readonly key: KeyRecord;
  /** The versions that the data keys are under. */
  readonly versions: readonly KeyVersionRecord[];
  readonly dataKeys: readonly StaleDataKey[];
}

/** What became of a batch. */
export interface BatchOutcome {
  /** The version that everything was brought under. */
  readonly target: number;
  readonly rewrapped: readonly { readonly before: StaleDataKey; readonly ciphertext: Buffer }[];
  readonly failed: readonly { readonly dataKey: string; readonly reason: string }[];
  /** Up to where the range has been worked through. */
  readonly afterName: string;
  /** Whether that was the end of it. */
  readonly finished: boolean;
}

interface PlanRow {
  tenant_id: TenantId;
  job_id: JobId;
  scope_tenant_id: TenantId | null;
  scope_key_id: KeyId | null;
  frontier_tenant_id: TenantId | null;
  frontier_key_id: KeyId | null;
  frontier_name: string | null;
}

/**
 * Makes the next range, of at most `size` stale data keys, of a job that isn't planned to its end. Returns whether
 * there was anything to plan: not while another replica is at it.
 */
export function planRange(store: Store, call: Deadline, size: number): Promise<boolean> {
  return store.reconcile(call, async (tx) => {
    const [job] = await tx.query<PlanRow>(
      `SELECT tenant_id, job_id, scope_tenant_id, scope_key_id, frontier_tenant_id, frontier_key_id, frontier_name
       FROM rewrap_jobs WHERE state = 'RUNNING' AND NOT planned ORDER BY job_id LIMIT 1 FOR UPDATE SKIP LOCKED`,
    );
    if (job === undefined) return false;
    const here = job.frontier_name === null ? await nextKey(tx, job) : job;
    if (here === undefined) {
      await tx.query('UPDATE rewrap_jobs SET planned = true WHERE tenant_id = $1 AND job_id = $2', [
        job.tenant_id,
        job.job_id,
      ]);
      return true;
    }
    await planWithin(tx, { ...job, ...here }, size);
    return true;
  });
}

type Frontier = Pick<PlanRow, 'frontier_tenant_id' | 'frontier_key_id' | 'frontier_name'>;

/**
 * The first key behind the frontier, in the job's scope, that has data keys. A job for one key waits until that may be
 * used; one for many leaves out those that may not.
 */
async function nextKey(tx: Tx, job: PlanRow): Promise<Frontier | undefined> {
  const [next] = await tx.query<Frontier>(
    `SELECT k.tenant_id AS frontier_tenant_id, k.key_id AS frontier_key_id, '' AS frontier_name
     FROM keys k JOIN tenants t USING (tenant_id)
     WHERE (k.tenant_id, k.key_id) > ($1, $2)
       AND ($3::uuid IS NULL OR k.tenant_id = $3) AND (k.key_id = $4 OR ($4::uuid IS NULL AND ${MAY_BE_USED}))
       AND EXISTS (SELECT FROM data_keys d WHERE d.tenant_id = k.tenant_id AND d.key_id = k.key_id)
     ORDER BY k.tenant_id, k.key_id LIMIT 1`,
    [job.frontier_tenant_id ?? NO_ID, job.frontier_key_id ?? NO_ID, job.scope_tenant_id, job.scope_key_id],
  );
  return next;
}

/** One range of the key at the frontier, if it has stale data keys there; and the frontier behind it. */
async function planWithin(tx: Tx, job: PlanRow, size: number): Promise<void> {
  const { tenant_id: tenantId, job_id: jobId, frontier_tenant_id, frontier_key_id, frontier_name } = job;
  const [found] = await tx.query<{ count: number; last: string | null }>(
    `SELECT count(*)::integer AS count, max(name) AS last FROM (
       SELECT d.name FROM data_keys d
       WHERE d.tenant_id = $1 AND d.key_id = $2 AND d.name > $3 AND d.version < (
         SELECT primary_version FROM keys WHERE tenant_id = $1 AND key_id = $2)
       ORDER BY d.name LIMIT $4) stale`,
    [frontier_tenant_id, frontier_key_id, frontier_name, size],
  );
  const { count = 0, last = null } = found ?? {};
  if (count > 0) {
    await tx.query(
      `INSERT INTO rewrap_ranges (tenant_id, job_id, range, key_tenant_id, key_id, after_name, until_name, total)
       SELECT tenant_id, job_id, ranges + 1, $3, $4, $5, $6, $7 FROM rewrap_jobs WHERE tenant_id = $1 AND job_id = $2`,
      [tenantId, jobId, frontier_tenant_id, frontier_key_id, frontier_name, last, count],
    );
  }
  await tx.query(
    `UPDATE rewrap_jobs SET frontier_tenant_id = $3, frontier_key_id = $4, frontier_name = $5, total = total + $6,
       ranges = ranges + CASE WHEN $6 > 0 THEN 1 ELSE 0 END
     WHERE tenant_id = $1 AND job_id = $2`,
    [tenantId, jobId, frontier_tenant_id, frontier_key_id, count < size ? null : last, count],
  );
}

interface LeaseRow {
  tenant_id: TenantId;
  job_id: JobId;
  range: number;
  fence: string;
  key_tenant_id: TenantId;
  key_id: KeyId;
  tenant: string;
  key: string;
  after_name: string;
  until_name: string;
  abandoned: boolean;
}

/** Leases a range that nobody works on and that may be worked on now; undefined when there is none. */
export async function leaseRange(store: Store, call: Deadline): Promise<Lease | undefined> {
  const [row] = await store.reconcile(call, (tx) =>
    tx.query<LeaseRow>(
      // Materialized, so that it is looked for once: joined as it is, the planner may do so for every range, and each time
      // finds another one that isn't locked.
      `WITH c AS MATERIALIZED (
         SELECT g.tenant_id, g.job_id, g.range, t.name AS tenant, k.name AS key,
           k.state IN ('DESTROY_SCHEDULED', 'DESTROYED') AS abandoned
         FROM rewrap_ranges g
           JOIN rewrap_jobs j ON j.tenant_id = g.tenant_id AND j.job_id = g.job_id
           JOIN keys k ON k.tenant_id = g.key_tenant_id AND k.key_id = g.key_id
           JOIN tenants t ON t.tenant_id = k.tenant_id
           JOIN key_versions v ON v.tenant_id = k.tenant_id AND v.key_id = k.key_id AND v.version = k.primary_version
         WHERE NOT g.finished AND g.leased_until < clock_timestamp() AND j.state = 'RUNNING'
           AND ((v.state = 'ENABLED' AND ${MAY_BE_USED}) OR k.state IN ('DESTROY_SCHEDULED', 'DESTROYED'))
         ORDER BY g.job_id, g.range LIMIT 1 FOR UPDATE OF g SKIP LOCKED)
       UPDATE rewrap_ranges r SET fence = r.fence + 1, leased_until = clock_timestamp() + ${LEASE}
       FROM c WHERE r.tenant_id = c.tenant_id AND r.job_id = c.job_id AND r.range = c.range
       RETURNING r.tenant_id, r.job_id, r.range, r.fence, r.key_tenant_id, r.key_id, c.tenant, c.key, r.after_name,
         r.until_name, c.abandoned`,
    ),
  );
  return (
    row && {
      tenantId: row.tenant_id,
      jobId: row.job_id,
      range: row.range,
      fence: row.fence,
      keyTenantId: row.key_tenant_id,
      keyId: row.key_id,
      tenant: row.tenant,
      key: row.key,
      afterName: row.after_name,
      untilName: row.until_name,
      abandoned: row.abandoned,
    }
  );
}

/** The next at most `size` stale data keys of a range, beginning behind `afterName`. */
export function readBatch(
  store: Store,
  call: Deadline,
  { keyTenantId: tenantId, keyId, untilName }: Lease,
  afterName: string,
  size: number,
): Promise<Batch> {
  return store.reconcile(call, async (tx) => {
    const key = await findKey(tx, tenantId, keyId);
    if (key === undefined) throw new Error('a key with data keys is gone');
    const rows = await tx.query<{
      name: string;
      data_key_id: DataKeyId;
      context_digest: Buffer;
      ciphertext: Buffer;
      version: number;
      row_state: string;
    }>(
      `SELECT name, data_key_id, context_digest, ciphertext, version, xmin AS row_state FROM data_keys
       WHERE tenant_id = $1 AND key_id = $2 AND name > $3 AND name <= $4 AND version < $5 ORDER BY name LIMIT $6`,
      [tenantId, keyId, afterName, untilName, key.primary.version, size],
    );
    const dataKeys = rows.map((row) => ({
      name: row.name,
      dataKeyId: row.data_key_id,
      contextDigest: row.context_digest,
      ciphertext: row.ciphertext,
      version: row.version,
      rowState: row.row_state,
    }));
    const versions = await tx.query<VersionRow>(
      `SELECT ${VERSION_COLUMNS} FROM key_versions v
       WHERE v.tenant_id = $1 AND v.key_id = $2 AND v.version = ANY ($3)`,
      [tenantId, keyId, [...new Set(dataKeys.map(({ version }) => version))]],
    );
    return { key, versions: versions.map(fromVersionRow), dataKeys };
  });
}

/**
 * Writes what became of a batch. `lost` when the lease is another's by now or the job has ended, `moved` when the key
 * has another primary by now or may not be used: then nothing was written.
 */
export function writeBatch(
  store: Store,
  call: Deadline,
  lease: Lease,
  outcome: BatchOutcome,
): Promise<'written' | 'lost' | 'moved'> {
  const { keyTenantId, keyId } = lease;
  return store.reconcile(call, async (tx) => {
    const [usable] = await tx.query(
      `SELECT 1 FROM keys k JOIN tenants t USING (tenant_id)
       WHERE k.tenant_id = $1 AND k.key_id = $2 AND k.primary_version = $3 AND ${MAY_BE_USED} FOR KEY SHARE OF k`,
      [keyTenantId, keyId, outcome.target],
    );
    if (usable === undefined) return 'moved';
    if (!(await moveOn(tx, lease, outcome))) return 'lost';
    await tx.query(
      `UPDATE data_keys d SET ciphertext = b.after, rewrapped_at = now()
       FROM unnest($3::text[], $4::xid[], $5::bytea[]) AS b (name, before, after)
       WHERE d.tenant_id = $1 AND d.key_id = $2 AND d.name BETWEEN $6 AND $7
         AND d.name = b.name AND d.xmin = b.before`,
      [
        keyTenantId,
        keyId,
        outcome.rewrapped.map(({ before }) => before.name),
        outcome.rewrapped.map(({ before }) => before.rowState),
        outcome.rewrapped.map(({ ciphertext }) => ciphertext),
        // However the planner joins, it reads no more than the batch.
        outcome.rewrapped[0]?.before.name,
        outcome.rewrapped.at(-1)?.before.name,
      ],
    );
    await insertFailures(tx, lease, outcome);
    return 'written';
  });
}

/** Closes a range of which nothing is worth doing. Returns whether the lease still was the holder's. */
export function closeRange(store: Store, call: Deadline, lease: Lease): Promise<boolean> {
  const { untilName } = lease;
  return store.reconcile(call, (tx) =>
    moveOn(tx, lease, { rewrapped: [], failed: [], afterName: untilName, finished: true }),
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

/** Counts the range on and renews its lease, if it is still the holder's and the job runs. */
async function moveOn(
  tx: Tx,
  lease: Lease,
  outcome: Pick<BatchOutcome, 'rewrapped' | 'failed' | 'afterName' | 'finished'>,
): Promise<boolean> {
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
      outcome.afterName,
      outcome.rewrapped.length,
      outcome.failed.length,
      outcome.finished,
    ],
  );
  return moved.length > 0;
}

async function insertFailures(
  tx: Tx,
  { tenantId, jobId }: Lease,
  { failed }: Pick<BatchOutcome, 'failed'>,
): Promise<void> {
  if (failed.length === 0) return;
  await tx.query(
    `INSERT INTO rewrap_failures (tenant_id, job_id, data_key, reason)
     SELECT $1, $2, f.data_key, f.reason FROM unnest($3::text[], $4::text[]) AS f (data_key, reason)
     LIMIT greatest(0, ${MAX_FAILURES} - (SELECT count(*) FROM rewrap_failures WHERE tenant_id = $1 AND job_id = $2))
     ON CONFLICT DO NOTHING`,
    [tenantId, jobId, failed.map(({ dataKey }) => dataKey), failed.map(({ reason }) => reason)],
  );
}
