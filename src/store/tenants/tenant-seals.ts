/**
 * The seals of tenants: the one door through which tenants come and change, and what finds seals
 * under replaced seal keys.
 *
 * Invariants: a tenant is changed while its row is locked, after its seal was verified, and what is
 * written is what was verified with the change applied, sealed by the seal key that is current and
 * stays so until the transaction ends, under a higher revision; nothing is sealed because the
 * database says it. A seal is replaced by another of the same tenant only while the row still has
 * the one that was verified. Who verifies and seals is given: this knows no HSM.
 */
import { randomUUID } from 'node:crypto';
import { KeywardError } from '../../errors.ts';
import type { SealKeyId, TenantId } from '../../ids.ts';
import { formatTenantName } from '../../names.ts';
import { insertAuditEntry } from '../audit/audit.ts';
import { atMost, firstUnder } from '../core/batches.ts';
import type { OwnerConnection } from '../core/owner.ts';
import { lockedInOrder } from '../core/row-locks.ts';
import type { Query, Tx } from '../core/transaction.ts';
import {
  findCurrentSealKey,
  holdCurrentSealKey,
  holdSealKeys,
} from '../hsm-token/token-objects.ts';
import type { Operator } from '../keys/key-seals.ts';
import {
  lockTenant,
  type Quotas,
  type StoredTenant,
  selectTenants,
  type TenantClaims,
  type TenantRecord,
  tenantRecord,
} from './tenants.ts';

/** Verifies and seals for one change. Each throws HSM_UNAVAILABLE and the like. */
export interface TenantSealer {
  /** Throws TENANT_CORRUPT unless it is what its seal is of. */
  verify(stored: StoredTenant): Promise<TenantRecord>;
  seal(claims: TenantClaims, sealKeyId: SealKeyId): Promise<Buffer>;
  /** As that of `StateSealer`. */
  sealKey(tx?: Tx): Promise<SealKeyId | undefined>;
}

/** What becomes of a tenant. */
export interface TenantChange {
  readonly state?: TenantClaims['state'];
  readonly shredAt?: Date | null;
  readonly shreddedAt?: Date;
  readonly quotas?: Quotas;
  readonly approvalRulesRevision?: bigint;
}

/** Adds a tenant. Throws RESOURCE_EXISTS when the name is taken, TOKEN_KEY_NOT_READY. */
export async function createTenant(
  tx: Tx,
  tenant: Pick<TenantClaims, 'tenantId' | 'name' | 'dedicatedRootKey'>,
  sealer: TenantSealer,
): Promise<TenantRecord> {
  const sealKeyId = await holdCurrentSealKey(tx, sealer);
  const { now } = await readClock(tx);
  const claims: TenantClaims = {
    ...tenant,
    revision: 1n,
    state: 'ENABLED',
    createdAt: microsecondsOf(now),
    shredAt: null,
    shreddedAt: null,
    quotas: { callsPerSecond: null, keys: null, storedDataKeys: null },
    approvalRulesRevision: null,
  };
  const seal = await sealer.seal(claims, sealKeyId);
  const { tenantId, name, dedicatedRootKey } = tenant;
  const inserted = await tx.query(
    `INSERT INTO tenants (tenant_id, name, dedicated_root_key, created_at, seal_key_id, seal)
     VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (name) DO NOTHING RETURNING 1`,
    [tenantId, name, dedicatedRootKey, now.toISOString(), sealKeyId, seal],
  );
  if (inserted.length === 0) throw new KeywardError('RESOURCE_EXISTS');
  return tenantRecord(claims);
}

/**
 * Locks a tenant, and makes of it what `decide` says; undefined changes nothing. Throws
 * RESOURCE_NOT_FOUND for a UUID that there isn't, TOKEN_KEY_NOT_READY, and what `sealer` and
 * `decide` throw.
 */
export async function changeTenant(
  tx: Tx,
  tenantId: TenantId,
  sealer: TenantSealer,
  decide: (tenant: TenantRecord) => Promise<TenantChange | undefined> | TenantChange | undefined,
): Promise<TenantRecord> {
  // Before the tenant: whoever makes another seal key current locks them in that order.
  const sealKeyId = await holdCurrentSealKey(tx, sealer);
  const stored = await lockTenant(tx, tenantId);
  if (stored === undefined) throw new KeywardError('RESOURCE_NOT_FOUND');
  const tenant = await sealer.verify(stored);
  const change = await decide(tenant);
  if (change === undefined) return tenant;
  const claims = claimsAfter(stored.claims, change);
  const seal = await sealer.seal(claims, sealKeyId);
  await write(tx, claims, change, { sealKeyId, seal });
  return tenantRecord(claims);
}

function claimsAfter(
  before: TenantClaims,
  { state, shredAt, shreddedAt, quotas, approvalRulesRevision }: TenantChange,
): TenantClaims {
  return {
    ...before,
    revision: before.revision + 1n,
    ...(state === undefined ? {} : { state }),
    ...(shredAt === undefined ? {} : { shredAt: shredAt && microsecondsOf(shredAt) }),
    ...(shreddedAt === undefined ? {} : { shreddedAt: microsecondsOf(shreddedAt) }),
    ...(quotas === undefined
      ? {}
      : {
          quotas: {
            callsPerSecond: amountOf(quotas.callsPerSecond),
            keys: amountOf(quotas.keys),
            storedDataKeys: amountOf(quotas.storedDataKeys),
          },
        }),
    ...(approvalRulesRevision === undefined ? {} : { approvalRulesRevision }),
  };
}

/** Writes the columns that change and no others: the roles may not write all. */
async function write(
  tx: Tx,
  { tenantId, revision }: TenantClaims,
  { state, shredAt, shreddedAt, quotas, approvalRulesRevision }: TenantChange,
  { sealKeyId, seal }: { readonly sealKeyId: SealKeyId; readonly seal: Buffer },
): Promise<void> {
  const columns: [string, unknown][] = [
    ['revision', String(revision)],
    ['seal_key_id', sealKeyId],
    ['seal', seal],
  ];
  if (state !== undefined) columns.push(['state', state]);
  if (shredAt !== undefined) columns.push(['shred_at', shredAt?.toISOString() ?? null]);
  if (shreddedAt !== undefined) columns.push(['shredded_at', shreddedAt.toISOString()]);
  if (quotas !== undefined)
    columns.push(
      ['quota_calls_per_second', quotas.callsPerSecond],
      ['quota_keys', quotas.keys],
      ['quota_stored_data_keys', quotas.storedDataKeys],
    );
  if (approvalRulesRevision !== undefined)
    columns.push(['approval_rules_revision', String(approvalRulesRevision)]);
  const assignments = columns.map(([column], index) => `${column} = $${index + 2}`);
  await tx.query(`UPDATE tenants SET ${assignments.join(', ')} WHERE tenant_id = $1`, [
    tenantId,
    ...columns.map(([, value]) => value),
  ]);
}

/** The database's clock, to the millisecond, and whether maintenance is paused. */
export async function readClock(
  tx: Pick<Tx, 'query'>,
): Promise<{ readonly now: Date; readonly paused: boolean }> {
  const [row] = await tx.query<{ now: Date; paused: boolean }>(
    `SELECT date_trunc('milliseconds', clock_timestamp()) AS now,
       (SELECT paused FROM maintenance) AS paused`,
  );
  if (row === undefined) throw new Error('the database tells no time');
  return row;
}

function microsecondsOf(time: Date): bigint {
  return BigInt(time.getTime()) * 1000n;
}

function amountOf(amount: number | null): bigint | null {
  return amount === null ? null : BigInt(amount);
}

/** Seal keys, as `o`, that were replaced and have tenants under them. */
const FROM_FORMER_KEYS = `FROM token_objects o
  WHERE o.role = 'seal' AND NOT o.is_current AND o.state <> 'DESTROYED'
    AND ${firstUnder('tenants', 'seal_key_id', 'tenant_id')}`;
/** Whether {@link findFormerTenantKeys} finds any. */
export const HAS_STALE_TENANTS = `EXISTS (SELECT ${FROM_FORMER_KEYS})`;

/** The seal keys that were replaced and have tenants under them. */
export async function findFormerTenantKeys(query: Query): Promise<SealKeyId[]> {
  const rows = await query<{ id: SealKeyId }>(
    `SELECT o.object_id AS id ${FROM_FORMER_KEYS} ORDER BY o.created_at`,
  );
  return rows.map(({ id }) => id);
}

/**
 * The next at most `size` tenants under a seal key that was replaced, behind a UUID, and the
 * current seal key. With the reconciler's rights, or the owner's.
 */
export async function readStaleTenants(
  query: Query,
  former: SealKeyId,
  after: TenantId | undefined,
  size: number,
): Promise<{ readonly stored: StoredTenant; readonly sealKeyId: SealKeyId }[]> {
  const sealKeyId = await findCurrentSealKey(query);
  if (sealKeyId === undefined) return [];
  const stale = await selectTenants(
    query,
    `WHERE seal_key_id = $1 AND ($2::uuid IS NULL OR tenant_id > $2) ORDER BY tenant_id ${atMost('$3')}`,
    [former, after ?? null, size],
  );
  return stale.map((stored) => ({ stored, sealKeyId }));
}

/** A tenant that was verified, and its seal by another seal key. */
export interface ResealedTenant {
  readonly before: StoredTenant;
  readonly sealKeyId: SealKeyId;
  readonly seal: Buffer;
}

/** Whether `tenants t` has the seal that `b` is to replace. */
const IS_AS_BEFORE = 't.tenant_id = b.tenant_id AND t.seal = b.before';
const RESEALED = lockedInOrder({
  batch: `unnest($1::uuid[], $2::bytea[], $3::uuid[], $4::bytea[])
    AS b (tenant_id, before, seal_key_id, seal)`,
  primaryKey: 'tenant_id',
  rows: 'tenants t',
  where: IS_AS_BEFORE,
});

/**
 * Writes seals in the place of those that were verified, where the rows still have them. In a
 * transaction, with the rights of the reconciler or the owner. Writes nothing and returns false
 * when the seal key isn't current any more, or maintenance is paused and that counts.
 */
export async function rewriteTenantSeals(
  query: Query,
  tenants: readonly ResealedTenant[],
  { evenIfPaused }: { readonly evenIfPaused: boolean },
): Promise<boolean> {
  if (!(await holdSealKeys(query, tenants, evenIfPaused))) return false;
  await query(
    `WITH ${RESEALED}
     UPDATE tenants t SET seal_key_id = b.seal_key_id, seal = b.seal FROM locked b
     WHERE ${IS_AS_BEFORE}`,
    [
      tenants.map(({ before }) => before.claims.tenantId),
      tenants.map(({ before }) => before.seal),
      tenants.map(({ sealKeyId }) => sealKeyId),
      tenants.map(({ seal }) => seal),
    ],
  );
  return true;
}

/** The tenants that aren't sealed, locked until the transaction ends. By the owner. */
export function readUnsealedTenants(query: Query): Promise<StoredTenant[]> {
  return selectTenants(query, 'WHERE seal IS NULL ORDER BY tenant_id FOR UPDATE', []);
}

/** How many tenants are sealed. */
export async function countSealedTenants(query: Query): Promise<number> {
  const [row] = await query<{ count: number }>(
    'SELECT count(*)::float8 AS count FROM tenants WHERE seal IS NOT NULL',
  );
  return row?.count ?? 0;
}

/** Writes the first seals of tenants that this transaction has locked. By the owner. */
export async function writeFirstTenantSeals(
  query: Query,
  tenants: readonly ResealedTenant[],
): Promise<void> {
  await query(
    `UPDATE tenants t SET seal_key_id = b.seal_key_id, seal = b.seal
     FROM unnest($1::uuid[], $2::uuid[], $3::bytea[]) AS b (tenant_id, seal_key_id, seal)
     WHERE t.tenant_id = b.tenant_id AND t.seal IS NULL`,
    [
      tenants.map(({ before }) => before.claims.tenantId),
      tenants.map(({ sealKeyId }) => sealKeyId),
      tenants.map(({ seal }) => seal),
    ],
  );
}

/** Records, as audit entries, that an operator vouches for what these tenants' rows say. */
export async function recordFirstTenantSeals(
  { query, stream }: Pick<OwnerConnection, 'query' | 'stream'>,
  { caller, method }: Operator,
  tenants: readonly StoredTenant[],
): Promise<void> {
  const call = { id: randomUUID(), caller, method };
  for (const { claims } of tenants)
    await insertAuditEntry({ query, stream }, claims.tenantId, {
      entryId: randomUUID(),
      call,
      resource: formatTenantName({ tenant: claims.name }),
      outcome: 'OK',
    });
}
