/**
 * Stored data keys, as rows: what callers make, read and delete.
 *
 * Invariant: a row is inserted only while the version that it is wrapped under is its key's
 * primary, so that a rotation finds every row that it leaves behind. How they are brought under new
 * versions is in `rewrap-ranges.ts`. Ciphertexts are neither made nor opened here.
 */
import type { DataKeyId, KeyId, TenantId } from '../../ids.ts';
import { atMost } from '../core/batches.ts';
import { type Condition, type FilterColumns, whereClause } from '../core/conditions.ts';
import type { Tx } from '../core/transaction.ts';
import { countOf, requireRoom } from '../tenants/tenant-counts.ts';
import { TURN } from './keys.ts';

export interface DataKeyRecord {
  readonly name: string;
  /** The subject of its ciphertext. */
  readonly dataKeyId: DataKeyId;
  /** D of the encryption context that it was made with, 32 bytes. */
  readonly contextDigest: Buffer;
  readonly ciphertext: Buffer;
  /** As its ciphertext says. */
  readonly version: number;
  /** By the database's clock, as all times here. */
  readonly createdAt: Date;
  /** When it was last brought under another version. */
  readonly rewrappedAt: Date | null;
}

interface Row {
  name: string;
  data_key_id: DataKeyId;
  context_digest: Buffer;
  ciphertext: Buffer;
  version: number;
  created_at: Date;
  rewrapped_at: Date | null;
}

const COLUMNS = 'name, data_key_id, context_digest, ciphertext, version, created_at, rewrapped_at';

function fromRow(row: Row): DataKeyRecord {
  return {
    name: row.name,
    dataKeyId: row.data_key_id,
    contextDigest: row.context_digest,
    ciphertext: row.ciphertext,
    version: row.version,
    createdAt: row.created_at,
    rewrappedAt: row.rewrapped_at,
  };
}

/**
 * Adds a data key that is wrapped under `version`. Undefined when that isn't the key's primary any
 * more; `taken` when the key has a data key of that name. Throws QUOTA_EXCEEDED when the tenant has
 * as many as the limit.
 */
export async function insertDataKey(
  tx: Tx,
  tenantId: TenantId,
  keyId: KeyId,
  dataKey: Pick<DataKeyRecord, 'name' | 'dataKeyId' | 'contextDigest' | 'ciphertext' | 'version'>,
  limit = Number.POSITIVE_INFINITY,
): Promise<DataKeyRecord | 'taken' | undefined> {
  // The lock keeps a rotation from coming in between: it waits, and then its job finds the row.
  const [primary] = await tx.query(
    `SELECT 1 FROM ${TURN.shared}, keys WHERE tenant_id = $1 AND key_id = $2 AND primary_version = $3
     FOR KEY SHARE OF keys`,
    [tenantId, keyId, dataKey.version],
  );
  if (primary === undefined) return undefined;
  const [row] = await tx.query<Row & { before: number }>(
    `INSERT INTO data_keys (tenant_id, key_id, name, data_key_id, context_digest, ciphertext)
     VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING
     RETURNING ${COLUMNS}, ${countOf('stored-data-keys')} AS before`,
    [tenantId, keyId, dataKey.name, dataKey.dataKeyId, dataKey.contextDigest, dataKey.ciphertext],
  );
  if (row === undefined) return 'taken';
  requireRoom('stored-data-keys', row.before, limit);
  return fromRow(row);
}

export async function findDataKey(
  tx: Tx,
  tenantId: TenantId,
  keyId: KeyId,
  name: string,
): Promise<DataKeyRecord | undefined> {
  const [row] = await tx.query<Row>(
    `SELECT ${COLUMNS} FROM data_keys WHERE tenant_id = $1 AND key_id = $2 AND name = $3`,
    [tenantId, keyId, name],
  );
  return row && fromRow(row);
}

const FILTER: FilterColumns = { version: () => 'version::text' };

/** At most `limit` data keys by name, in the order of its bytes, beginning behind `after`. */
export async function listDataKeys(
  tx: Tx,
  tenantId: TenantId,
  keyId: KeyId,
  page: {
    readonly after?: string;
    readonly limit: number;
    readonly conditions?: readonly Condition[];
  },
): Promise<DataKeyRecord[]> {
  const values: unknown[] = [tenantId, keyId, page.after ?? '', page.limit];
  const where = whereClause(page.conditions ?? [], FILTER, values);
  const rows = await tx.query<Row>(
    `SELECT ${COLUMNS} FROM data_keys
     WHERE tenant_id = $1 AND key_id = $2 AND name > $3${where} ORDER BY name ${atMost('$4')}`,
    values,
  );
  return rows.map(fromRow);
}

/** Deletes exactly this data key, not another of its name. Returns whether it was there. */
export async function deleteDataKey(
  tx: Tx,
  tenantId: TenantId,
  keyId: KeyId,
  { name, dataKeyId }: Pick<DataKeyRecord, 'name' | 'dataKeyId'>,
): Promise<boolean> {
  const deleted = await tx.query(
    `DELETE FROM data_keys WHERE tenant_id = $1 AND key_id = $2 AND name = $3 AND data_key_id = $4 RETURNING 1`,
    [tenantId, keyId, name, dataKeyId],
  );
  return deleted.length > 0;
}

/**
 * How many data keys a key has, or how many under one of its versions. Reads all of them: 1 s for
 * 2,000,000 or so.
 */
export async function countDataKeys(
  tx: Tx,
  tenantId: TenantId,
  keyId: KeyId,
  version?: number,
): Promise<number> {
  const [row] = await tx.query<{ count: number }>(
    `SELECT count(*)::float8 AS count FROM data_keys
     WHERE tenant_id = $1 AND key_id = $2 AND version = coalesce($3, version)`,
    [tenantId, keyId, version],
  );
  return row?.count ?? 0;
}

/**
 * Deletes all data keys of a key that is being destroyed, with the reconciler's rights; returns how
 * many.
 */
export async function deleteAllDataKeys(tx: Tx, tenantId: TenantId, keyId: KeyId): Promise<number> {
  const [row] = await tx.query<{ count: number }>(
    `WITH deleted AS (DELETE FROM data_keys WHERE tenant_id = $1 AND key_id = $2 RETURNING 1)
     SELECT count(*)::float8 AS count FROM deleted`,
    [tenantId, keyId],
  );
  return row?.count ?? 0;
}
