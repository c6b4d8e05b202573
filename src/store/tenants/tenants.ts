/**
 * Tenants, as rows. All tenants share the table: it isn't under row-level security, and reading it
 * needs no transaction.
 *
 * Invariants: what is read here is what a row says, a {@link StoredTenant}, which no rule can use;
 * a {@link TenantRecord} is one whose seal was verified, or that was sealed in the same transaction
 * (`tenant-seals.ts`). A shredded tenant's row stays, and its name stays taken.
 */
import type { SealKeyId, TenantId } from '../../ids.ts';
import { atMost } from '../core/batches.ts';
import { microseconds, timeOf } from '../core/times.ts';
import type { Deadline, Query, Tx } from '../core/transaction.ts';
import type { Store } from '../store.ts';

export type TenantState = 'ENABLED' | 'DISABLED' | 'SHRED_SCHEDULED' | 'SHREDDED';

/** What a tenant may use; null where the service's default holds. */
export interface Quotas<Amount = number> {
  /** All replicas together. */
  readonly callsPerSecond: Amount | null;
  readonly keys: Amount | null;
  readonly storedDataKeys: Amount | null;
}

/** What a tenant's row says. Times are in microseconds since 1970. */
export interface TenantClaims {
  readonly tenantId: TenantId;
  readonly name: string;
  readonly revision: bigint;
  readonly state: TenantState;
  readonly dedicatedRootKey: boolean;
  readonly createdAt: bigint;
  readonly shredAt: bigint | null;
  readonly shreddedAt: bigint | null;
  readonly quotas: Quotas<bigint>;
  /** How often its approval rules were changed; null where none were ever set. */
  readonly approvalRulesRevision: bigint | null;
}

/** A tenant's row, which proves nothing before its seal is verified. */
export interface StoredTenant {
  readonly claims: TenantClaims;
  /** Both null where it isn't sealed. */
  readonly sealKeyId: SealKeyId | null;
  /** 32 bytes. */
  readonly seal: Buffer | null;
}

declare const VERIFIED: unique symbol;
interface Verified {
  readonly [VERIFIED]: true;
}

/** A tenant that is what its seal says. */
export interface TenantRecord extends Verified {
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
  /** How often its approval rules were changed. */
  readonly approvalRulesRevision: bigint;
}

/**
 * Which tenant, where its name and UUID are known to belong together, and which approval rules it
 * has at least.
 */
export type VerifiedTenant = Pick<
  TenantRecord,
  keyof Verified | 'tenantId' | 'name' | 'approvalRulesRevision'
>;

/** Returns the tenant, for who has verified what is claimed, or is sealing it. */
export function tenantRecord(claims: TenantClaims): TenantRecord {
  const { tenantId, name, state, dedicatedRootKey, quotas } = claims;
  const record: Omit<TenantRecord, keyof Verified> = {
    tenantId,
    name,
    state,
    revision: String(claims.revision),
    createdAt: dateOf(claims.createdAt),
    dedicatedRootKey,
    shredAt: claims.shredAt === null ? null : dateOf(claims.shredAt),
    quotas: {
      callsPerSecond: numberOf(quotas.callsPerSecond),
      keys: numberOf(quotas.keys),
      storedDataKeys: numberOf(quotas.storedDataKeys),
    },
    approvalRulesRevision: claims.approvalRulesRevision ?? 0n,
  };
  return record as TenantRecord;
}

/** As Postgres gives times of the past and near future: what is less than a millisecond is cut. */
function dateOf(time: bigint): Date {
  return new Date(Math.floor(Number(time) / 1000));
}

function numberOf(amount: bigint | null): number | null {
  return amount === null ? null : Number(amount);
}

interface Row {
  tenant_id: TenantId;
  name: string;
  state: TenantState;
  revision: string;
  dedicated_root_key: boolean;
  created_microseconds: string;
  shred_microseconds: string | null;
  shredded_microseconds: string | null;
  quota_calls_per_second: string | null;
  quota_keys: string | null;
  quota_stored_data_keys: string | null;
  approval_rules_revision: string | null;
  seal_key_id: SealKeyId | null;
  seal: Buffer | null;
}

const SELECT = `SELECT tenant_id, name, state, revision, dedicated_root_key,
    ${microseconds('created_at')} AS created_microseconds,
    ${microseconds('shred_at')} AS shred_microseconds,
    ${microseconds('shredded_at')} AS shredded_microseconds,
    quota_calls_per_second::text, quota_keys::text, quota_stored_data_keys::text,
    approval_rules_revision::text, seal_key_id, seal
  FROM tenants`;

function fromRow(row: Row): StoredTenant {
  return {
    claims: {
      tenantId: row.tenant_id,
      name: row.name,
      revision: BigInt(row.revision),
      state: row.state,
      dedicatedRootKey: row.dedicated_root_key,
      createdAt: timeOf(row.created_microseconds),
      shredAt: timeOf(row.shred_microseconds),
      shreddedAt: timeOf(row.shredded_microseconds),
      quotas: {
        callsPerSecond: amountOf(row.quota_calls_per_second),
        keys: amountOf(row.quota_keys),
        storedDataKeys: amountOf(row.quota_stored_data_keys),
      },
      approvalRulesRevision: amountOf(row.approval_rules_revision),
    },
    sealKeyId: row.seal_key_id,
    seal: row.seal,
  };
}

function amountOf(text: string | null): bigint | null {
  return text === null ? null : BigInt(text);
}

/** The rows that a condition selects. */
export async function selectTenants(
  query: Query,
  rest: string,
  values: readonly unknown[],
): Promise<StoredTenant[]> {
  return (await query<Row>(`${SELECT} ${rest}`, values)).map(fromRow);
}

/** The row of that name, shredded or not. */
export async function findTenantByName(
  store: Pick<Store, 'query'>,
  call: Deadline,
  name: string,
): Promise<StoredTenant | undefined> {
  const [found] = await selectTenants(queryOf(store, call), 'WHERE name = $1', [name]);
  return found;
}

/** The row of that UUID, shredded or not. */
export async function findTenant(
  store: Pick<Store, 'query'>,
  call: Deadline,
  tenantId: TenantId,
): Promise<StoredTenant | undefined> {
  const [found] = await selectTenants(queryOf(store, call), 'WHERE tenant_id = $1', [tenantId]);
  return found;
}

/**
 * Keeps everyone else from changing the tenant until the transaction ends; returns its row as it
 * then is.
 */
export async function lockTenant(tx: Tx, tenantId: TenantId): Promise<StoredTenant | undefined> {
  const [found] = await selectTenants(tx.query, 'WHERE tenant_id = $1 FOR UPDATE', [tenantId]);
  return found;
}

/**
 * At most `limit` rows by name, in the order of its bytes, beginning behind `after`; those of
 * shredded tenants, too.
 */
export function listTenants(
  store: Pick<Store, 'query'>,
  call: Deadline,
  { after = '', limit }: { readonly after?: string | undefined; readonly limit: number },
): Promise<StoredTenant[]> {
  const rest = `WHERE name > $1 ORDER BY name ${atMost('$2')}`;
  return selectTenants(queryOf(store, call), rest, [after, limit]);
}

function queryOf(store: Pick<Store, 'query'>, call: Deadline): Query {
  return (text, values) => store.query(call, text, values);
}
