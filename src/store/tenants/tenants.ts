/**
 * Tenants, as rows. All tenants share the table: it isn't under row-level security, and reading it
 * needs no transaction.
 *
 * Invariant: a shredded tenant isn't found by its name, and its name stays taken.
 */
import { KeywardError } from '../../errors.ts';
import type { TenantId } from '../../ids.ts';
import { type Condition, type FilterColumns, whereClause } from '../core/conditions.ts';
import type { Deadline, Tx } from '../core/transaction.ts';
import type { Store } from '../store.ts';

export type TenantState = 'ENABLED' | 'DISABLED' | 'SHRED_SCHEDULED' | 'SHREDDED';

/** What a tenant may use; null where the service's default holds. */
export interface Quotas {
  /** All replicas together. */
  readonly callsPerSecond: number | null;
  readonly keys: number | null;
  readonly storedDataKeys: number | null;
}

export interface TenantRecord {
  readonly tenantId: TenantId;
  readonly name: string;
  readonly state: TenantState;
  /** Counts the tenant's changes. */
  readonly revision: string;
  /** By the database's clock, as all times here. */
  readonly createdAt: Date;
  /** Whether it has a root key of its own. */
  readonly dedicatedRootKey: boolean;
  /** When it is, or was, to be shredded. */
  readonly shredAt: Date | null;
  readonly quotas: Quotas;
}

interface Row {
  tenant_id: TenantId;
  name: string;
  state: TenantState;
  revision: string;
  created_at: Date;
  dedicated_root_key: boolean;
  shred_at: Date | null;
  quota_calls_per_second: number | null;
  quota_keys: number | null;
  quota_stored_data_keys: number | null;
}

const COLUMNS = `tenant_id, name, state, revision, created_at, dedicated_root_key, shred_at,
  quota_calls_per_second::float8, quota_keys::float8, quota_stored_data_keys::float8`;

/** What callers can know of. */
const THERE = "state <> 'SHREDDED'";

const FILTER: FilterColumns = { state: () => 'state' };

function fromRow(row: Row): TenantRecord {
  const { tenant_id: tenantId, name, state, revision, created_at: createdAt } = row;
  const { dedicated_root_key: dedicatedRootKey, shred_at: shredAt } = row;
  const quotas = {
    callsPerSecond: row.quota_calls_per_second,
    keys: row.quota_keys,
    storedDataKeys: row.quota_stored_data_keys,
  };
  return { tenantId, name, state, revision, createdAt, dedicatedRootKey, shredAt, quotas };
}

/** Adds a tenant. Throws RESOURCE_EXISTS when the name is taken. */
export async function insertTenant(
  tx: Tx,
  tenant: Pick<TenantRecord, 'tenantId' | 'name' | 'dedicatedRootKey'>,
): Promise<TenantRecord> {
  const [row] = await tx.query<Row>(
    `INSERT INTO tenants (tenant_id, name, dedicated_root_key) VALUES ($1, $2, $3)
     ON CONFLICT (name) DO NOTHING
     RETURNING ${COLUMNS}`,
    [tenant.tenantId, tenant.name, tenant.dedicatedRootKey],
  );
  if (row === undefined) throw new KeywardError('RESOURCE_EXISTS');
  return fromRow(row);
}

export async function findTenantByName(
  store: Store,
  call: Deadline,
  name: string,
): Promise<TenantRecord | undefined> {
  const [row] = await store.query<Row>(
    call,
    `SELECT ${COLUMNS} FROM tenants WHERE name = $1 AND ${THERE}`,
    [name],
  );
  return row && fromRow(row);
}

/**
 * Keeps everyone else from changing the tenant until the transaction ends; returns it as it then
 * is.
 */
export async function lockTenant(tx: Tx, tenantId: TenantId): Promise<TenantRecord | undefined> {
  const [row] = await tx.query<Row>(
    `SELECT ${COLUMNS} FROM tenants WHERE tenant_id = $1 FOR UPDATE`,
    [tenantId],
  );
  return row && fromRow(row);
}

/**
 * Sets the state of a tenant that this transaction has locked, and when it is to be shredded, if it
 * is.
 */
export async function setTenantState(
  tx: Tx,
  tenantId: TenantId,
  state: 'ENABLED' | 'DISABLED' | 'SHRED_SCHEDULED',
  shredAt: Date | null = null,
): Promise<TenantRecord> {
  const [row] = await tx.query<Row>(
    `UPDATE tenants SET state = $2, shred_at = $3, revision = revision + 1 WHERE tenant_id = $1 RETURNING ${COLUMNS}`,
    [tenantId, state, shredAt],
  );
  if (row === undefined) throw new Error('a locked tenant is gone');
  return fromRow(row);
}

/** Sets all quotas of a tenant that this transaction has locked. */
export async function setTenantQuotas(
  tx: Tx,
  tenantId: TenantId,
  quotas: Quotas,
): Promise<TenantRecord> {
  const [row] = await tx.query<Row>(
    `UPDATE tenants SET quota_calls_per_second = $2, quota_keys = $3, quota_stored_data_keys = $4,
       revision = revision + 1
     WHERE tenant_id = $1 RETURNING ${COLUMNS}`,
    [tenantId, quotas.callsPerSecond, quotas.keys, quotas.storedDataKeys],
  );
  if (row === undefined) throw new Error('a locked tenant is gone');
  return fromRow(row);
}

/** At most `limit` tenants by name, in the order of its bytes, beginning behind `after`. */
export async function listTenants(
  store: Store,
  call: Deadline,
  page: {
    readonly after?: string;
    readonly limit: number;
    readonly conditions?: readonly Condition[];
  },
): Promise<TenantRecord[]> {
  const values: unknown[] = [page.after ?? '', page.limit];
  const where = whereClause(page.conditions ?? [], FILTER, values);
  const rows = await store.query<Row>(
    call,
    `SELECT ${COLUMNS} FROM tenants WHERE name > $1 AND ${THERE}${where} ORDER BY name LIMIT $2`,
    values,
  );
  return rows.map(fromRow);
}
