/**
 * All that is a tenant's, measured and erased, as rows.
 *
 * With the reconciler's rights where it erases, in a transaction that has locked the tenant, and
 * decided that its time has come (`tenant-seals.ts`). Audit
 * entries, history and the rows themselves stay; the seals of its keys' states are erased, so that
 * none is used again whatever becomes of the tenant's row. Knows no token.
 */
import type { TenantId } from '../../ids.ts';
import type { Tx } from '../core/transaction.ts';
import { eraseCopies } from '../keys/key-versions.ts';

/** What there is of a tenant that could be lost. */
export interface TenantHoldings {
  readonly keys: number;
  readonly keyVersions: number;
  readonly storedDataKeys: number;
  /** When any of its keys was used last, as far as replicas have reported. */
  readonly lastUsedAt: Date | null;
}

/** Reads all of the tenant's data keys: 1 s for 2,000,000 or so. */
export async function measureTenant(tx: Tx, tenantId: TenantId): Promise<TenantHoldings> {
  const [row] = await tx.query<{ [Name in keyof TenantHoldings]: TenantHoldings[Name] }>(
    `SELECT
       (SELECT count(*)::float8 FROM keys WHERE tenant_id = $1 AND state <> 'DESTROYED') AS keys,
       (SELECT count(*)::float8 FROM key_versions WHERE tenant_id = $1 AND state <> 'DESTROYED') AS "keyVersions",
       (SELECT count(*)::float8 FROM data_keys WHERE tenant_id = $1) AS "storedDataKeys",
       (SELECT max(greatest(last_encrypt_at, last_decrypt_at)) FROM key_version_usage WHERE tenant_id = $1)
         AS "lastUsedAt"`,
    [tenantId],
  );
  if (row === undefined) throw new Error('a count returned no row');
  return row;
}

/** Erases all that is a tenant's. Returns how many stored data keys went with it. */
export async function eraseTenant(tx: Tx, tenantId: TenantId): Promise<number> {
  // Locked in the order that `row-locks.ts` says: Postgres would also walk them by their names.
  await tx.query(
    `WITH locked AS (SELECT key_id FROM keys WHERE tenant_id = $1 ORDER BY key_id FOR NO KEY UPDATE)
     UPDATE keys k SET state = 'DESTROYED', destroyed_at = coalesce(destroyed_at, clock_timestamp()),
       revision = revision + 1, state_seal = NULL, state_seal_key_id = NULL
     FROM locked b WHERE k.tenant_id = $1 AND k.key_id = b.key_id`,
    [tenantId],
  );
  await tx.query(
    `UPDATE key_versions SET state = 'DESTROYED', destroyed_at = clock_timestamp(), wrapped = '',
       revision = revision + 1
     WHERE tenant_id = $1 AND state <> 'DESTROYED'`,
    [tenantId],
  );
  await eraseCopies(tx, tenantId);
  const [row] = await tx.query<{ count: number }>(
    `WITH deleted AS (DELETE FROM data_keys WHERE tenant_id = $1 RETURNING 1)
     SELECT count(*)::float8 AS count FROM deleted`,
    [tenantId],
  );
  return row?.count ?? 0;
}
