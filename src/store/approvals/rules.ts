/**
 * Approval rules, as rows: all of a tenant's in one, with the seal over it.
 *
 * Invariant: rules are written only with their seal, by the seal key that is current and stays so
 * until the transaction ends. Every function wants a transaction that is bound to the tenant, but
 * where it says otherwise. Nothing that is read here has been verified, nor is it known here what
 * rules mean.
 */
import { KeywardError } from '../../errors.ts';
import type { SealKeyId, TenantId } from '../../ids.ts';
import { atMost } from '../core/batches.ts';
import { lockedInOrder } from '../core/row-locks.ts';
import type { Query, Tx } from '../core/transaction.ts';
import { holdSealKey, holdSealKeys } from '../hsm-token/token-objects.ts';

/** All that the database says of a tenant's approval rules. */
export interface ApprovalRulesRecord {
  /** In JSON; empty where none were ever set. */
  readonly content: string;
  /** Absent where none were ever set. */
  readonly sealed?: ApprovalRulesSeal;
}

export interface ApprovalRulesSeal {
  /** Counts the changes. */
  readonly revision: bigint;
  readonly sealKeyId: SealKeyId;
  readonly seal: Buffer;
}

interface Row {
  readonly revision: string;
  readonly content: string;
  readonly seal_key_id: SealKeyId;
  readonly seal: Buffer;
}

function recordOf(row: Row | undefined): ApprovalRulesRecord {
  if (row === undefined) return { content: '' };
  const { revision, content, seal_key_id: sealKeyId, seal } = row;
  return { content, sealed: { revision: BigInt(revision), sealKeyId, seal } };
}

/** Returns the tenant's rules as the database has them. */
export async function findApprovalRules(
  { query }: { readonly query: Query },
  tenantId: TenantId,
): Promise<ApprovalRulesRecord> {
  const [row] = await query<Row>(
    'SELECT revision::text, content, seal_key_id, seal FROM approval_rules WHERE tenant_id = $1',
    [tenantId],
  );
  return recordOf(row);
}

/**
 * Keeps everyone else from changing the tenant's rules until the transaction ends; returns them as
 * they then are, and the time.
 */
export async function lockApprovalRules(
  tx: Tx,
  tenantId: TenantId,
): Promise<ApprovalRulesRecord & { readonly now: Date }> {
  await tx.query(
    "SELECT pg_advisory_xact_lock(hashtextextended('approval rules ' || $1::uuid, 0))",
    [tenantId],
  );
  const [clock] = await tx.query<{ now: Date }>(
    "SELECT date_trunc('milliseconds', clock_timestamp()) AS now",
  );
  if (clock === undefined) throw new Error('the database tells no time');
  return { ...(await findApprovalRules(tx, tenantId)), now: clock.now };
}

/**
 * Writes rules that this transaction has locked, with their seal. The seal key stays current until
 * the transaction ends. Throws TOKEN_KEY_NOT_READY where it is not.
 */
export async function writeApprovalRules(
  tx: Tx,
  tenantId: TenantId,
  content: string,
  { revision, sealKeyId, seal }: ApprovalRulesSeal,
): Promise<void> {
  if (!(await holdSealKey(tx, sealKeyId))) throw new KeywardError('TOKEN_KEY_NOT_READY');
  await tx.query(
    `INSERT INTO approval_rules (tenant_id, revision, content, seal_key_id, seal)
     VALUES ($1, $2, $3, $4, $5)
     ON CONFLICT (tenant_id) DO UPDATE
       SET revision = excluded.revision, content = excluded.content,
         seal_key_id = excluded.seal_key_id, seal = excluded.seal`,
    [tenantId, revision.toString(), content, sealKeyId, seal],
  );
}

/** Seal keys, as `o`, that were replaced and have rules under them. */
const FROM_FORMER_KEYS = `FROM token_objects o WHERE o.role = 'seal' AND NOT o.is_current AND o.state <> 'DESTROYED'
  AND EXISTS (SELECT FROM approval_rules r WHERE r.seal_key_id = o.object_id)`;
/** Whether {@link findFormerApprovalRulesKeys} finds any. */
export const HAS_STALE_APPROVAL_RULES = `EXISTS (SELECT ${FROM_FORMER_KEYS})`;

/** Returns the seal keys that were replaced and have rules under them. */
export async function findFormerApprovalRulesKeys(query: Query): Promise<SealKeyId[]> {
  const rows = await query<{ id: SealKeyId }>(
    `SELECT o.object_id AS id ${FROM_FORMER_KEYS} ORDER BY o.created_at`,
  );
  return rows.map(({ id }) => id);
}

/** A tenant's rules under a seal key that was replaced. */
export interface StaleApprovalRules {
  readonly tenantId: TenantId;
  /** The last part of the tenant's name. */
  readonly tenant: string;
  readonly content: string;
  readonly sealed: ApprovalRulesSeal;
  /** The current seal key. */
  readonly sealKeyId: SealKeyId;
}

/**
 * Returns the next at most `size` rules under a seal key that was replaced, behind a tenant. With
 * the reconciler's rights, or the owner's.
 */
export async function readStaleApprovalRules(
  query: Query,
  former: SealKeyId,
  after: TenantId | undefined,
  size: number,
): Promise<StaleApprovalRules[]> {
  const rows = await query<Row & { tenant_id: TenantId; tenant: string; to_seal: SealKeyId }>(
    `SELECT r.tenant_id, t.name AS tenant, r.revision::text, r.content, r.seal_key_id, r.seal,
       current_seal.object_id AS to_seal
     FROM approval_rules r JOIN tenants t ON t.tenant_id = r.tenant_id
       JOIN token_objects current_seal ON current_seal.role = 'seal' AND current_seal.is_current
     WHERE r.seal_key_id = $1 AND ($2::uuid IS NULL OR r.tenant_id > $2) ORDER BY r.tenant_id ${atMost('$3')}`,
    [former, after ?? null, size],
  );
  return rows.map(({ tenant_id: tenantId, tenant, to_seal: sealKeyId, ...row }) => ({
    ...{ tenantId, tenant, sealKeyId, content: row.content },
    sealed: { revision: BigInt(row.revision), sealKeyId: row.seal_key_id, seal: row.seal },
  }));
}

/** Whether `approval_rules r` has the seal that `b` is to replace. */
const IS_AS_BEFORE = 'r.tenant_id = b.tenant_id AND r.seal = b.before';
const RESEALED = lockedInOrder({
  batch:
    'unnest($1::uuid[], $2::bytea[], $3::uuid[], $4::bytea[]) AS b (tenant_id, before, seal_key_id, seal)',
  primaryKey: 'tenant_id',
  rows: 'approval_rules r',
  where: IS_AS_BEFORE,
});

/**
 * Writes seals in the place of those that were verified, where the rows still have them. In a
 * transaction, with the rights of the reconciler or the owner. Writes nothing and returns false
 * when the seal key is not current any more, or maintenance is paused and that counts.
 */
export async function rewriteApprovalRulesSeals(
  query: Query,
  rules: readonly {
    readonly before: Pick<StaleApprovalRules, 'tenantId' | 'sealed'>;
    readonly sealKeyId: SealKeyId;
    readonly seal: Buffer;
  }[],
  { evenIfPaused }: { readonly evenIfPaused: boolean },
): Promise<boolean> {
  if (!(await holdSealKeys(query, rules, evenIfPaused))) return false;
  await query(
    `WITH ${RESEALED}
     UPDATE approval_rules r SET seal_key_id = b.seal_key_id, seal = b.seal FROM locked b WHERE ${IS_AS_BEFORE}`,
    [
      rules.map(({ before }) => before.tenantId),
      rules.map(({ before }) => before.sealed.seal),
      rules.map(({ sealKeyId }) => sealKeyId),
      rules.map(({ seal }) => seal),
    ],
  );
  return true;
}
