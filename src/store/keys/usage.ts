/**
 * How key versions are used, as rows: reports of replicas added up, and up to when they are
 * complete.
 *
 * Invariant: a report counts once, however often it is sent: each replica numbers its own. Times of
 * use are the database's clock, reckoned back by how long ago the replica says it was. Counts
 * nothing itself.
 */
import type { KeyId, TenantId } from '../../ids.ts';
import { isRecent } from '../core/leases.ts';
import { lockedInOrder } from '../core/row-locks.ts';
import type { Deadline, Tx } from '../core/transaction.ts';
import type { Store } from '../store.ts';

/**
 * A replica that hasn't reported for so long doesn't run any more, and what it had not reported is
 * lost.
 */
const SILENCE = "interval '10 minutes'";

/** What one replica has counted of one version since its last report. */
export interface VersionUse {
  readonly tenantId: TenantId;
  readonly keyId: KeyId;
  readonly version: number;
  readonly encrypted: number;
  readonly decrypted: number;
  /** How long ago the last of each was, in milliseconds; undefined when there was none. */
  readonly sinceEncryptMs: number | undefined;
  readonly sinceDecryptMs: number | undefined;
}

export interface UsageReport {
  readonly replicaId: string;
  /** 1, 2, … for each replica. */
  readonly sequence: number;
  /** How long ago the counting for this report ended, in milliseconds. */
  readonly ageMs: number;
  readonly uses: readonly VersionUse[];
}

/** How a version was used by callers, as far as replicas have reported. */
export interface UsageRecord {
  readonly encryptOperations: number;
  readonly lastEncryptAt: Date | null;
  readonly decryptOperations: number;
  readonly lastDecryptAt: Date | null;
  /** Up to when every replica that runs has reported; null when none has. */
  readonly completeAt: Date | null;
}

/** Keys, of those that uses are of, that have reached their limit and aren't noted to have. */
const OVER_LIMIT = lockedInOrder({
  batch: 'unnest($1::uuid[], $2::uuid[]) AS b (tenant_id, key_id)',
  primaryKey: 'tenant_id, key_id',
  rows: 'keys k',
  where: `k.tenant_id = b.tenant_id AND k.key_id = b.key_id AND k.usage_limit_reached_at IS NULL AND EXISTS (
    SELECT FROM key_version_usage u WHERE u.tenant_id = k.tenant_id AND u.key_id = k.key_id
      AND u.version = k.primary_version AND u.encrypt_operations >= k.rotation_usage_limit)`,
});

/**
 * Adds a report, and notes which keys have reached their limit. Sending the same one again changes
 * nothing.
 */
export function addReport(store: Store, call: Deadline, report: UsageReport): Promise<void> {
  return store.reconcile(call, async (tx) => {
    const fresh = await tx.query(
      `INSERT INTO usage_reports AS r (tenant_id, replica_id, sequence, complete_at)
       SELECT tenant_id, $1, $2, clock_timestamp() - make_interval(secs => $3) FROM maintenance
       ON CONFLICT (tenant_id, replica_id) DO UPDATE SET sequence = excluded.sequence, complete_at = excluded.complete_at
       WHERE r.sequence < excluded.sequence
       RETURNING 1`,
      [report.replicaId, report.sequence, report.ageMs / 1000],
    );
    if (fresh.length === 0 || report.uses.length === 0) return;
    await addUses(tx, report.uses);
    await tx.query(
      `WITH ${OVER_LIMIT}
       UPDATE keys k SET usage_limit_reached_at = now() FROM locked b
       WHERE k.tenant_id = b.tenant_id AND k.key_id = b.key_id`,
      [report.uses.map(({ tenantId }) => tenantId), report.uses.map(({ keyId }) => keyId)],
    );
  });
}

async function addUses(tx: Tx, uses: readonly VersionUse[]): Promise<void> {
  const seconds = (ms: number | undefined) => (ms === undefined ? null : ms / 1000);
  // In one order, so that replicas that report at once wait for each other and never in a circle.
  await tx.query(
    `INSERT INTO key_version_usage AS u (tenant_id, key_id, version, encrypt_operations, last_encrypt_at,
       decrypt_operations, last_decrypt_at)
     SELECT tenant_id, key_id, version, encrypted, clock_timestamp() - make_interval(secs => since_encrypt),
       decrypted, clock_timestamp() - make_interval(secs => since_decrypt)
     FROM unnest($1::uuid[], $2::uuid[], $3::integer[], $4::bigint[], $5::float8[], $6::bigint[], $7::float8[])
       AS n (tenant_id, key_id, version, encrypted, since_encrypt, decrypted, since_decrypt)
     ORDER BY tenant_id, key_id, version
     ON CONFLICT (tenant_id, key_id, version) DO UPDATE SET
       encrypt_operations = u.encrypt_operations + excluded.encrypt_operations,
       last_encrypt_at = greatest(u.last_encrypt_at, excluded.last_encrypt_at),
       decrypt_operations = u.decrypt_operations + excluded.decrypt_operations,
       last_decrypt_at = greatest(u.last_decrypt_at, excluded.last_decrypt_at)`,
    [
      uses.map(({ tenantId }) => tenantId),
      uses.map(({ keyId }) => keyId),
      uses.map(({ version }) => version),
      uses.map(({ encrypted }) => encrypted),
      uses.map(({ sinceEncryptMs }) => seconds(sinceEncryptMs)),
      uses.map(({ decrypted }) => decrypted),
      uses.map(({ sinceDecryptMs }) => seconds(sinceDecryptMs)),
    ],
  );
}

/** A replica that ends in order has reported all; nobody need wait for it. */
export async function removeReplica(
  store: Store,
  call: Deadline,
  replicaId: string,
): Promise<void> {
  await store.reconcile(call, (tx) =>
    tx.query('DELETE FROM usage_reports WHERE replica_id = $1', [replicaId]),
  );
}

/** Forgets replicas that have fallen silent. */
export async function removeSilentReplicas(store: Store, call: Deadline): Promise<void> {
  await store.reconcile(call, (tx) =>
    tx.query(`DELETE FROM usage_reports WHERE NOT ${isRecent('complete_at', SILENCE)}`),
  );
}

interface Row {
  version: number;
  encrypt_operations: number;
  last_encrypt_at: Date | null;
  decrypt_operations: number;
  last_decrypt_at: Date | null;
}

function fromRow(row: Row | undefined, completeAt: Date | null): UsageRecord {
  return {
    encryptOperations: row?.encrypt_operations ?? 0,
    lastEncryptAt: row?.last_encrypt_at ?? null,
    decryptOperations: row?.decrypt_operations ?? 0,
    lastDecryptAt: row?.last_decrypt_at ?? null,
    completeAt,
  };
}

async function findCompleteAt(tx: Tx): Promise<Date | null> {
  const [row] = await tx.query<{ at: Date | null }>(
    `SELECT min(complete_at) AS at FROM usage_reports WHERE ${isRecent('complete_at', SILENCE)}`,
  );
  return row?.at ?? null;
}

/** The use of each of a key's versions. */
export async function findUsage(
  tx: Tx,
  tenantId: TenantId,
  keyId: KeyId,
): Promise<(version: number) => UsageRecord> {
  const rows = await tx.query<Row>(
    `SELECT version, encrypt_operations::float8, last_encrypt_at, decrypt_operations::float8, last_decrypt_at
     FROM key_version_usage WHERE tenant_id = $1 AND key_id = $2`,
    [tenantId, keyId],
  );
  const completeAt = await findCompleteAt(tx);
  const used = new Map(rows.map((row) => [row.version, row]));
  return (version) => fromRow(used.get(version), completeAt);
}

/** The use of all of a key's versions together, or of the one. */
export async function findTotalUsage(
  tx: Tx,
  tenantId: TenantId,
  keyId: KeyId,
  version?: number,
): Promise<UsageRecord> {
  const [row] = await tx.query<Row>(
    `SELECT sum(encrypt_operations)::float8 AS encrypt_operations, max(last_encrypt_at) AS last_encrypt_at,
       sum(decrypt_operations)::float8 AS decrypt_operations, max(last_decrypt_at) AS last_decrypt_at
     FROM key_version_usage WHERE tenant_id = $1 AND key_id = $2 AND version = coalesce($3, version)`,
    [tenantId, keyId, version],
  );
  return fromRow(row, await findCompleteAt(tx));
}
