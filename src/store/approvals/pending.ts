/**
 * Pending operations and what people decided on them, as rows.
 *
 * - Whoever changes an operation has locked its row, and writes it with its seal.
 * - Nothing that is read here has been verified: what a row says counts only as far as `content`,
 *   its seal and its other columns agree, which is found out elsewhere.
 * - Every function wants a transaction that is bound to the tenant, but where it says otherwise.
 */
import type { OperationId, SealKeyId, TenantId } from '../../ids.ts';
import { atMost } from '../core/batches.ts';
import { type Condition, type FilterColumns, whereClause } from '../core/conditions.ts';
import { lockedInOrder } from '../core/row-locks.ts';
import type { Query, Tx } from '../core/transaction.ts';
import { holdSealKeys } from '../hsm-token/token-objects.ts';

/** What every row has of an operation besides its seal. */
export interface OperationColumns {
  readonly tenantId: TenantId;
  readonly operationId: OperationId;
  readonly revision: bigint;
  readonly state: string;
  readonly method: string;
  readonly requester: string;
  readonly requestDigest: Buffer;
  /** The canonical request. */
  readonly request: Buffer;
  /** In JSON; null where there is none. */
  readonly preview: Buffer | null;
  /** Both in whole milliseconds, by the database's clock. */
  readonly createdAt: Date;
  readonly expiresAt: Date;
}

/** What is sealed, and by what. */
export interface OperationSeal {
  readonly content: Buffer;
  readonly sealKeyId: SealKeyId;
  readonly seal: Buffer;
}

/** How an operation ended. */
export interface OperationEnd {
  readonly endedAt: Date | null;
  /** Empty unless it failed. */
  readonly errorReason: string;
  readonly errorMessage: string;
}

/** An operation's row. */
export interface OperationRow extends OperationColumns, OperationSeal, OperationEnd {}

/** What one person decided, as its row has it. */
export interface DecisionRow extends OperationSeal {
  readonly approver: string;
  readonly credentialId: Buffer;
  readonly clientDataJson: Buffer;
  readonly authenticatorData: Buffer;
  readonly signature: Buffer;
  /** SPKI, DER. */
  readonly publicKey: Buffer;
}

interface Row {
  tenant_id: TenantId;
  operation_id: OperationId;
  revision: string;
  state: string;
  method: string;
  requester: string;
  request_digest: Buffer;
  request: Buffer;
  preview: Buffer | null;
  created_at: Date;
  expires_at: Date;
  content: Buffer;
  seal_key_id: SealKeyId;
  seal: Buffer;
  ended_at: Date | null;
  error_reason: string;
  error_message: string;
}

const SELECT = `SELECT tenant_id, operation_id, revision::text, state, method, requester,
    request_digest, request, preview, created_at, expires_at, content, seal_key_id, seal, ended_at,
    error_reason, error_message
  FROM pending_operations`;

function fromRow(row: Row): OperationRow {
  return {
    tenantId: row.tenant_id,
    operationId: row.operation_id,
    revision: BigInt(row.revision),
    state: row.state,
    method: row.method,
    requester: row.requester,
    requestDigest: row.request_digest,
    request: row.request,
    preview: row.preview,
    createdAt: row.created_at,
    expiresAt: row.expires_at,
    content: row.content,
    sealKeyId: row.seal_key_id,
    seal: row.seal,
    endedAt: row.ended_at,
    errorReason: row.error_reason,
    errorMessage: row.error_message,
  };
}

/**
 * Keeps others from adding operations of the tenant until the transaction ends, and returns the
 * time in whole milliseconds.
 */
export async function lockOpenOperations(tx: Tx, tenantId: TenantId): Promise<Date> {
  await tx.query("SELECT pg_advisory_xact_lock(hashtextextended('pending ' || $1, 2))", [tenantId]);
  return timeOf(tx);
}

/** Returns the database's time, in whole milliseconds. */
export async function timeOf(tx: Tx): Promise<Date> {
  const [row] = await tx.query<{ now: Date }>(
    "SELECT date_trunc('milliseconds', clock_timestamp()) AS now",
  );
  if (row === undefined) throw new Error('the database has no time');
  return row.now;
}

/** Returns how many operations of the tenant have not ended, and how many of them are one's own. */
export async function countOpen(
  tx: Tx,
  tenantId: TenantId,
  requester: string,
): Promise<{ readonly all: number; readonly own: number }> {
  const [row] = await tx.query<{ all: number; own: number }>(
    `SELECT count(*)::integer AS all, (count(*) FILTER (WHERE requester = $2))::integer AS own
     FROM pending_operations WHERE tenant_id = $1 AND ended_at IS NULL`,
    [tenantId, requester],
  );
  return row ?? { all: 0, own: 0 };
}

/** Returns the caller's operation that asks for the same and waits, if there is one. */
export async function findSame(
  tx: Tx,
  tenantId: TenantId,
  {
    requester,
    method,
    requestDigest,
  }: Pick<OperationColumns, 'requester' | 'method' | 'requestDigest'>,
  now: Date,
): Promise<OperationRow | undefined> {
  const [row] = await tx.query<Row & Record<string, unknown>>(
    `${SELECT} WHERE tenant_id = $1 AND requester = $2 AND method = $3 AND request_digest = $4
       AND state = 'PENDING' AND expires_at > $5 ORDER BY created_at DESC LIMIT 1`,
    [tenantId, requester, method, requestDigest, now],
  );
  return row && fromRow(row);
}

/** Adds an operation. */
export async function insertOperation(
  tx: Tx,
  row: OperationColumns & OperationSeal,
): Promise<void> {
  await tx.query(
    `INSERT INTO pending_operations (tenant_id, operation_id, revision, state, method, requester,
       request_digest, request, preview, created_at, expires_at, content, seal_key_id, seal)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)`,
    [
      ...[row.tenantId, row.operationId, `${row.revision}`, row.state, row.method, row.requester],
      ...[row.requestDigest, row.request, row.preview, row.createdAt, row.expiresAt],
      ...[row.content, row.sealKeyId, row.seal],
    ],
  );
}

/** Returns an operation's row; undefined where there is none. */
export async function findOperation(
  tx: Tx,
  tenantId: TenantId,
  operationId: OperationId,
): Promise<OperationRow | undefined> {
  const [row] = await tx.query<Row & Record<string, unknown>>(
    `${SELECT} WHERE tenant_id = $1 AND operation_id = $2`,
    [tenantId, operationId],
  );
  return row && fromRow(row);
}

/** Keeps others from changing an operation, and returns its row; undefined where there is none. */
export async function lockOperation(
  tx: Tx,
  tenantId: TenantId,
  operationId: OperationId,
): Promise<OperationRow | undefined> {
  await tx.query(
    'SELECT FROM pending_operations WHERE tenant_id = $1 AND operation_id = $2 FOR UPDATE',
    [tenantId, operationId],
  );
  // In a statement of its own: one that had to wait would read what was there before.
  return findOperation(tx, tenantId, operationId);
}

/** Writes what an operation has become, which this transaction has locked, with its seal. */
export async function writeOperation(
  tx: Tx,
  row: Pick<OperationColumns, 'tenantId' | 'operationId' | 'revision' | 'state' | 'expiresAt'> &
    OperationSeal,
  { errorReason, errorMessage }: Pick<OperationEnd, 'errorReason' | 'errorMessage'>,
): Promise<void> {
  await tx.query(
    `UPDATE pending_operations SET revision = $3, state = $4, expires_at = $5, content = $6,
       seal_key_id = $7, seal = $8, error_reason = $9, error_message = $10,
       ended_at = CASE WHEN $4 IN ('PENDING', 'APPROVED') THEN NULL ELSE clock_timestamp() END
     WHERE tenant_id = $1 AND operation_id = $2`,
    [
      ...[row.tenantId, row.operationId, `${row.revision}`, row.state, row.expiresAt],
      ...[row.content, row.sealKeyId, row.seal, errorReason, errorMessage],
    ],
  );
}

const FILTER: FilterColumns = { state: () => 'state', requester: () => 'requester' };

/** Where an operation stands in its tenant's list: the newest first. */
export type OperationPosition = Pick<OperationColumns, 'createdAt' | 'operationId'>;

/** Returns at most `limit` of the tenant's operations, newest first, those behind `after`. */
export async function listOperations(
  tx: Tx,
  tenantId: TenantId,
  page: {
    readonly after?: OperationPosition | undefined;
    readonly limit: number;
    readonly conditions: readonly Condition[];
  },
): Promise<OperationRow[]> {
  const { after, limit, conditions } = page;
  const values: unknown[] = [tenantId, after?.createdAt, after?.operationId, limit];
  const where = whereClause(conditions, FILTER, values);
  const rows = await tx.query<Row & Record<string, unknown>>(
    `${SELECT} WHERE tenant_id = $1
       AND ($2::timestamptz IS NULL OR (created_at, operation_id) < ($2, $3::uuid))${where}
     ORDER BY created_at DESC, operation_id DESC ${atMost('$4')}`,
    values,
  );
  return rows.map(fromRow);
}

/** So many that wait, and that ended of late, are watched. */
const WATCHED = 500;

/** Returns the tenant's operations that have not ended, or did within a minute, newest first. */
export async function listRecent(tx: Tx, tenantId: TenantId): Promise<OperationRow[]> {
  const rows = await tx.query<Row & Record<string, unknown>>(
    `${SELECT} WHERE tenant_id = $1
       AND (ended_at IS NULL OR ended_at > clock_timestamp() - interval '1 minute')
     ORDER BY created_at DESC, operation_id DESC LIMIT ${WATCHED}`,
    [tenantId],
  );
  return rows.map(fromRow);
}

interface DecisionTableRow {
  operation_id: OperationId;
  approver: string;
  content: Buffer;
  seal_key_id: SealKeyId;
  seal: Buffer;
  credential_id: Buffer;
  client_data_json: Buffer;
  authenticator_data: Buffer;
  signature: Buffer;
  public_key: Buffer;
}

/** Returns what was decided on operations of the tenant, by the operation. */
export async function listDecisions(
  tx: Tx,
  tenantId: TenantId,
  operationIds: readonly OperationId[],
): Promise<ReadonlyMap<OperationId, readonly DecisionRow[]>> {
  const rows = await tx.query<DecisionTableRow & Record<string, unknown>>(
    `SELECT operation_id, approver, content, seal_key_id, seal, credential_id, client_data_json,
       authenticator_data, signature, public_key
     FROM operation_decisions WHERE tenant_id = $1 AND operation_id = ANY ($2::uuid[])
     ORDER BY operation_id, approver`,
    [tenantId, operationIds],
  );
  const groups = Map.groupBy(rows, (row) => row.operation_id);
  return new Map([...groups].map(([id, own]) => [id, own.map(decisionOf)]));
}

function decisionOf(row: DecisionTableRow): DecisionRow {
  return {
    approver: row.approver,
    content: row.content,
    sealKeyId: row.seal_key_id,
    seal: row.seal,
    credentialId: row.credential_id,
    clientDataJson: row.client_data_json,
    authenticatorData: row.authenticator_data,
    signature: row.signature,
    publicKey: row.public_key,
  };
}

/** Adds what a person decided. */
export async function insertDecision(
  tx: Tx,
  tenantId: TenantId,
  operationId: OperationId,
  row: DecisionRow,
): Promise<void> {
  await tx.query(
    `INSERT INTO operation_decisions (tenant_id, operation_id, approver, content, seal_key_id, seal,
       credential_id, client_data_json, authenticator_data, signature, public_key)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
    [
      ...[tenantId, operationId, row.approver, row.content, row.sealKeyId, row.seal],
      ...[row.credentialId, row.clientDataJson, row.authenticatorData, row.signature],
      row.publicKey,
    ],
  );
}

/** Takes away what was decided on an operation, whose terms have become others. */
export async function deleteDecisions(
  tx: Tx,
  tenantId: TenantId,
  operationId: OperationId,
): Promise<void> {
  await tx.query('DELETE FROM operation_decisions WHERE tenant_id = $1 AND operation_id = $2', [
    tenantId,
    operationId,
  ]);
}

/** Which operation, of which tenant. */
export type OperationRef = Pick<OperationColumns, 'tenantId' | 'operationId'>;

/**
 * Returns operations that are approved and to be done now, and keeps other replicas from them for
 * so long. By the reconciler.
 */
export async function takeApproved(
  tx: Tx,
  { limit, milliseconds }: { readonly limit: number; readonly milliseconds: number },
): Promise<OperationRef[]> {
  const rows = await tx.query<{ tenant_id: TenantId; operation_id: OperationId }>(
    `UPDATE pending_operations o
     SET attempt_after = clock_timestamp() + $2 * interval '1 millisecond'
     FROM (SELECT tenant_id, operation_id FROM pending_operations
       WHERE ended_at IS NULL AND state = 'APPROVED' AND attempt_after <= clock_timestamp()
       ORDER BY tenant_id, operation_id LIMIT $1 FOR UPDATE SKIP LOCKED) due
     WHERE o.tenant_id = due.tenant_id AND o.operation_id = due.operation_id
     RETURNING o.tenant_id, o.operation_id`,
    [limit, milliseconds],
  );
  return rows.map(refOf);
}

/** Puts off the next attempt at an operation that is approved. By the reconciler. */
export async function postponeApproved(
  tx: Tx,
  { tenantId, operationId }: OperationRef,
  milliseconds: number,
): Promise<void> {
  await tx.query(
    `UPDATE pending_operations
     SET attempt_after = clock_timestamp() + $3 * interval '1 millisecond'
     WHERE tenant_id = $1 AND operation_id = $2 AND ended_at IS NULL`,
    [tenantId, operationId, milliseconds],
  );
}

/** Returns operations whose time has passed while they waited. By the reconciler. */
export async function findExpired(tx: Tx, limit: number): Promise<OperationRef[]> {
  const rows = await tx.query<{ tenant_id: TenantId; operation_id: OperationId }>(
    `SELECT tenant_id, operation_id FROM pending_operations
     WHERE ended_at IS NULL AND state = 'PENDING' AND expires_at <= clock_timestamp()
     ORDER BY expires_at ${atMost('$1')}`,
    [limit],
  );
  return rows.map(refOf);
}

const refOf = (row: { tenant_id: TenantId; operation_id: OperationId }): OperationRef => ({
  tenantId: row.tenant_id,
  operationId: row.operation_id,
});

/** Removes what ended ninety days ago. By the reconciler. */
export async function removeOldOperations(tx: Tx): Promise<void> {
  await tx.query(
    "DELETE FROM pending_operations WHERE ended_at < clock_timestamp() - interval '90 days'",
  );
}

/** Seal keys, as `o`, that were replaced and have operations under them. */
const FROM_FORMER_KEYS = `FROM token_objects o WHERE o.role = 'seal' AND NOT o.is_current
  AND o.state <> 'DESTROYED'
  AND EXISTS (SELECT FROM pending_operations p WHERE p.seal_key_id = o.object_id)`;
/** Whether {@link findFormerOperationKeys} finds any. */
export const HAS_STALE_OPERATIONS = `EXISTS (SELECT ${FROM_FORMER_KEYS})`;

/** Returns the seal keys that were replaced and have operations under them. */
export async function findFormerOperationKeys(query: Query): Promise<SealKeyId[]> {
  const rows = await query<{ id: SealKeyId }>(
    `SELECT o.object_id AS id ${FROM_FORMER_KEYS} ORDER BY o.created_at`,
  );
  return rows.map(({ id }) => id);
}

/** An operation under a seal key that was replaced. */
export interface StaleOperation extends OperationRef, OperationSeal {
  /** The last part of the tenant's name. */
  readonly tenant: string;
  /** The current seal key. */
  readonly currentKeyId: SealKeyId;
}

/**
 * Returns the next at most `size` operations under a seal key that was replaced, behind one of
 * them. With the reconciler's rights, or the owner's.
 */
export async function readStaleOperations(
  query: Query,
  former: SealKeyId,
  after: OperationRef | undefined,
  size: number,
): Promise<StaleOperation[]> {
  const rows = await query<{
    tenant_id: TenantId;
    operation_id: OperationId;
    tenant: string;
    content: Buffer;
    seal: Buffer;
    to_seal: SealKeyId;
  }>(
    `SELECT p.tenant_id, p.operation_id, t.name AS tenant, p.content, p.seal,
       current_seal.object_id AS to_seal
     FROM pending_operations p JOIN tenants t ON t.tenant_id = p.tenant_id
       JOIN token_objects current_seal
         ON current_seal.role = 'seal' AND current_seal.is_current
     WHERE p.seal_key_id = $1
       AND ($2::uuid IS NULL OR (p.tenant_id, p.operation_id) > ($2, $3::uuid))
     ORDER BY p.tenant_id, p.operation_id ${atMost('$4')}`,
    [former, after?.tenantId ?? null, after?.operationId ?? null, size],
  );
  return rows.map((row) => ({
    tenantId: row.tenant_id,
    operationId: row.operation_id,
    tenant: row.tenant,
    content: row.content,
    sealKeyId: former,
    seal: row.seal,
    currentKeyId: row.to_seal,
  }));
}

/** Whether `pending_operations p` has the seal that `b` is to replace. */
const IS_AS_BEFORE =
  'p.tenant_id = b.tenant_id AND p.operation_id = b.operation_id AND p.seal = b.before';
const RESEALED = lockedInOrder({
  batch: `unnest($1::uuid[], $2::uuid[], $3::bytea[], $4::uuid[], $5::bytea[])
    AS b (tenant_id, operation_id, before, seal_key_id, seal)`,
  primaryKey: 'tenant_id, operation_id',
  rows: 'pending_operations p',
  where: IS_AS_BEFORE,
});

/**
 * Writes seals in the place of those that were verified, where the rows still have them. With the
 * reconciler's rights, or the owner's. Returns false, having written none, if that may not be now.
 */
export async function rewriteOperationSeals(
  query: Query,
  seals: readonly {
    readonly before: StaleOperation;
    readonly sealKeyId: SealKeyId;
    readonly seal: Buffer;
  }[],
  { evenIfPaused }: { readonly evenIfPaused: boolean },
): Promise<boolean> {
  if (!(await holdSealKeys(query, seals, evenIfPaused))) return false;
  await query(
    `WITH ${RESEALED}
     UPDATE pending_operations p SET seal_key_id = b.seal_key_id, seal = b.seal
     FROM locked b WHERE ${IS_AS_BEFORE}`,
    [
      seals.map(({ before }) => before.tenantId),
      seals.map(({ before }) => before.operationId),
      seals.map(({ before }) => before.seal),
      seals.map(({ sealKeyId }) => sealKeyId),
      seals.map(({ seal }) => seal),
    ],
  );
  return true;
}
