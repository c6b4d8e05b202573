/**
 * Stored data keys under older versions than their key's primary: found, read, written.
 *
 * Invariants: a data key is written only under a lease that holds, while its key may be used and
 * the version that it is brought under is the primary, and only if its row is still what was read.
 * Doesn't know how it is re-wrapped.
 */
import type { DataKeyId, KeyId, TenantId } from '../../ids.ts';
import { atMost } from '../core/batches.ts';
import type { Deadline, Tx } from '../core/transaction.ts';
import {
  fromVersionRow,
  type KeyVersionRecord,
  VERSION_COLUMNS,
  type VersionRow,
} from '../keys/key-versions.ts';
import { findKey, type KeyRecord } from '../keys/keys.ts';
import type { Store } from '../store.ts';
import { MAY_BE_USED } from './maintenance.ts';
import {
  type Lease,
  type LeasedKey,
  moveOn,
  type PlannedJob,
  type PlanStep,
  type Progress,
} from './rewrap-ranges.ts';

/** Sorts before every UUID that is in use. */
const NO_ID = '00000000-0000-0000-0000-000000000000';

/** A stored data key as a batch has read it. */
export interface StaleDataKey {
  /**
   * Which state of the row it is: Postgres gives each its own (xmin), also when the bytes are the
   * same.
   */
  readonly rowState: string;
  readonly name: string;
  readonly dataKeyId: DataKeyId;
  readonly contextDigest: Buffer;
  readonly ciphertext: Buffer;
  readonly version: number;
}

/** What is to be re-wrapped, with what that takes. */
export interface DataKeyBatch {
  readonly key: KeyRecord;
  /** The versions that the data keys are under. */
  readonly versions: readonly KeyVersionRecord[];
  readonly dataKeys: readonly StaleDataKey[];
}

/** What was re-wrapped of a batch. */
export interface RewrappedDataKeys {
  /** The version that everything was brought under. */
  readonly target: number;
  readonly items: readonly { readonly before: StaleDataKey; readonly ciphertext: Buffer }[];
}

/** Where in a key's data keys a plan is. */
interface Place {
  readonly tenantId: TenantId;
  readonly keyId: KeyId;
  readonly name: string;
}

/** Plans a range of one key; none where the next key has nothing stale. */
export async function planDataKeys(
  tx: Tx,
  job: PlannedJob,
  size: number,
): Promise<PlanStep | undefined> {
  const { tenantId, keyId, name } = job.frontier;
  const isWithin = tenantId !== null && keyId !== null && name !== null;
  const here = isWithin ? { tenantId, keyId, name } : await nextKey(tx, job);
  return here && planWithin(tx, here, size);
}

// A text for each scope: of one for all, Postgres has a plan for any that reads all keys.
const nextKeyWhere = (condition: string) =>
  `SELECT k.tenant_id AS "tenantId", k.key_id AS "keyId", '' AS name
   FROM keys k JOIN tenants t USING (tenant_id) CROSS JOIN LATERAL (
     SELECT FROM data_keys d WHERE d.tenant_id = k.tenant_id AND d.key_id = k.key_id LIMIT 1) d
   WHERE (k.tenant_id, k.key_id) > ($1, $2) AND ${condition}
   ORDER BY k.tenant_id, k.key_id LIMIT 1`;
const NEXT_OF_ALL = nextKeyWhere(MAY_BE_USED);
const NEXT_OF_TENANT = nextKeyWhere(`k.tenant_id = $3 AND ${MAY_BE_USED}`);
const NEXT_OF_KEY = nextKeyWhere('k.tenant_id = $3 AND k.key_id = $4');

/**
 * The first key behind the frontier, in the job's scope, that has data keys. A job for one key
 * waits until that may be used; one for many leaves out those that may not.
 */
async function nextKey(
  tx: Tx,
  { frontier, scopeTenantId, scopeKeyId }: PlannedJob,
): Promise<Place | undefined> {
  const behind = [frontier.tenantId ?? NO_ID, frontier.keyId ?? NO_ID];
  const scope = [scopeTenantId, scopeKeyId].filter((id) => id !== null);
  const text = [NEXT_OF_ALL, NEXT_OF_TENANT, NEXT_OF_KEY][scope.length] as string;
  const [next] = await tx.query<Place>(text, [...behind, ...scope]);
  return next;
}

/** One range of the key, if it has stale data keys there; and the frontier behind it. */
async function planWithin(
  tx: Tx,
  { tenantId, keyId, name }: Place,
  size: number,
): Promise<PlanStep> {
  const [found] = await tx.query<{ count: number; last: string | null }>(
    `SELECT count(*)::integer AS count, max(name) AS last FROM (
       SELECT d.name FROM data_keys d
       WHERE d.tenant_id = $1 AND d.key_id = $2 AND d.name > $3 AND d.version < (
         SELECT primary_version FROM keys WHERE tenant_id = $1 AND key_id = $2)
       ORDER BY d.name ${atMost('$4')}) stale`,
    [tenantId, keyId, name, size],
  );
  const { count = 0, last = null } = found ?? {};
  const frontier = { tenantId, keyId, name: count < size ? null : last };
  if (last === null) return { frontier };
  return { frontier, range: { tenantId, keyId, afterName: name, untilName: last, total: count } };
}

/** The next at most `size` stale data keys of a range, beginning behind `afterName`. */
export function readDataKeys(
  store: Store,
  call: Deadline,
  { tenantId, keyId }: LeasedKey,
  { afterName, untilName }: Pick<Lease, 'afterName' | 'untilName'>,
  size: number,
): Promise<DataKeyBatch> {
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
       WHERE tenant_id = $1 AND key_id = $2 AND name > $3 AND name <= $4 AND version < $5 ORDER BY name ${atMost('$6')}`,
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
 * Writes what became of a batch. `lost` when the lease is another's by now or the job has ended,
 * `moved` when the key has another primary by now or may not be used: then nothing was written.
 */
export function writeDataKeys(
  store: Store,
  call: Deadline,
  { lease, key }: { readonly lease: Lease; readonly key: LeasedKey },
  { target, items }: RewrappedDataKeys,
  progress: Progress,
): Promise<'written' | 'lost' | 'moved'> {
  const { tenantId, keyId } = key;
  return store.reconcile(call, async (tx) => {
    const [usable] = await tx.query(
      `SELECT 1 FROM keys k JOIN tenants t USING (tenant_id)
       WHERE k.tenant_id = $1 AND k.key_id = $2 AND k.primary_version = $3 AND ${MAY_BE_USED} FOR KEY SHARE OF k`,
      [tenantId, keyId, target],
    );
    if (usable === undefined) return 'moved';
    if (!(await moveOn(tx, lease, progress))) return 'lost';
    await tx.query(
      `UPDATE data_keys d SET ciphertext = b.after, rewrapped_at = now()
       FROM unnest($3::text[], $4::xid[], $5::bytea[]) AS b (name, before, after)
       WHERE d.tenant_id = $1 AND d.key_id = $2 AND d.name BETWEEN $6 AND $7
         AND d.name = b.name AND d.xmin = b.before`,
      [
        tenantId,
        keyId,
        items.map(({ before }) => before.name),
        items.map(({ before }) => before.rowState),
        items.map(({ ciphertext }) => ciphertext),
        // However the planner joins, it reads no more than the batch.
        items[0]?.before.name,
        items.at(-1)?.before.name,
      ],
    );
    return 'written';
  });
}
