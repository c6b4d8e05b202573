/**
 * Request ids: mutations that a caller may send again without a second effect.
 *
 * A row is written in the transaction of the effect, first of all, so that of two at once the
 * second waits and then finds it. It holds what the answer is rebuilt from, never the answer, and
 * never a secret. Kept for 24 hours (`housekeeping.ts`).
 */
import type { Call } from '../call.ts';
import { KeywardError } from '../errors.ts';
import type { TenantId } from '../ids.ts';
import type { Tx } from './core/transaction.ts';

/** What an answer is rebuilt from: ids and numbers. */
export type Reference = Readonly<Record<string, string | number>>;

/**
 * Takes the call's request id for this transaction's effect. Undefined when it was free; else the
 * reference of the effect that it had. Throws REQUEST_ID_REUSED when that was another request's.
 */
export async function claimRequestId(
  tx: Tx,
  tenantId: TenantId,
  call: Call,
  reference: Reference,
): Promise<Reference | undefined> {
  if (call.idempotency === undefined) return undefined;
  const { requestId, fingerprint } = call.idempotency;
  const claimed = await tx.query(
    `INSERT INTO request_ids (tenant_id, caller, method, request_id, fingerprint, reference)
     VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING RETURNING 1`,
    [tenantId, call.caller, call.method, requestId, fingerprint, JSON.stringify(reference)],
  );
  return claimed.length > 0 ? undefined : findReference(tx, tenantId, call);
}

/**
 * The reference of the effect that the call's request id had before, if any. Throws
 * REQUEST_ID_REUSED.
 */
export async function findReference(
  tx: Tx,
  tenantId: TenantId,
  call: Call,
): Promise<Reference | undefined> {
  if (call.idempotency === undefined) return undefined;
  const { requestId, fingerprint } = call.idempotency;
  const [row] = await tx.query<{ fingerprint: Buffer; reference: Reference }>(
    `SELECT fingerprint, reference FROM request_ids
     WHERE tenant_id = $1 AND caller = $2 AND method = $3 AND request_id = $4`,
    [tenantId, call.caller, call.method, requestId],
  );
  if (row !== undefined && !row.fingerprint.equals(fingerprint))
    throw new KeywardError('REQUEST_ID_REUSED');
  return row?.reference;
}
