/**
 * Tenants, as rows. All tenants share the table: it isn't under row-level security, and reading it needs no transaction.
 */
import { KeywardError } from '../errors.ts';
import type { TenantId } from '../ids.ts';
import type { Deadline, Store, Tx } from './store.ts';

export interface TenantRecord {
  readonly tenantId: TenantId;
  readonly name: string;
  /** By the database's clock. */
  readonly createdAt: Date;
}

interface Row {
  tenant_id: TenantId;
  name: string;
  created_at: Date;
}

const COLUMNS = 'tenant_id, name, created_at';

function fromRow(row: Row): TenantRecord {
  return { tenantId: row.tenant_id, name: row.name, createdAt: row.created_at };
}

/** Adds a tenant. Throws RESOURCE_EXISTS when the name is taken. */
export async function insertTenant(
  tx: Tx,
  tenant: { readonly tenantId: TenantId; readonly name: string },
): Promise<TenantRecord> {
  const [row] = await tx.query<Row>(
    `INSERT INTO tenants (tenant_id, name) VALUES ($1, $2)
     ON CONFLICT (name) DO NOTHING
     RETURNING ${COLUMNS}`,
    [tenant.tenantId, tenant.name],
  );
  if (row === undefined) throw new KeywardError('RESOURCE_EXISTS');
  return fromRow(row);
}

export async function findTenantByName(
  store: Store,
  call: Deadline,
  name: string,
): Promise<TenantRecord | undefined> {
  const [row] = await store.query<Row>(call, `SELECT ${COLUMNS} FROM tenants WHERE name = $1`, [name]);
  return row && fromRow(row);
}

/** At most `limit` tenants by name, in the order of its bytes, beginning behind `after`. */
export async function listTenants(
  store: Store,
  call: Deadline,
  page: { readonly after?: string; readonly limit: number },
): Promise<TenantRecord[]> {
  const rows = await store.query<Row>(
    call,
    `SELECT ${COLUMNS} FROM tenants WHERE name > $1 ORDER BY name LIMIT $2`,
    [page.after ?? '', page.limit],
  );
  return rows.map(fromRow);
}
