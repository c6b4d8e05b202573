/**
 * Request ids: mutations that a caller may send again without a second effect.
 *
 * A row is written in the transaction of the effect, first of all, so that of two at once the
 * second waits and then finds it; last of all it gets what the effect was, from which the same
 * request is answered. Kept for 24 hours (`housekeeping.ts`). What the row holds, and how it is
 * proven, isn't known here (`calls/replays.ts`).
 */
import type { Call, KeptEffect } from '../call.ts';
import { KeywardError } from '../errors.ts';
import type { TenantId } from '../ids.ts';
import type { Tx } from './core/transaction.ts';

/** The call's request has had its effect before: nothing was done. */
export class RequestRepeated extends Error {
  override readonly name = 'RequestRepeated';
}

/**
 * Takes the call's request id for this transaction's effect. Throws {@link RequestRepeated} when it
 * has had one.
 */
export async function claimRequestId(tx: Tx, tenantId: TenantId, call: Call): Promise<void> {
  if (call.idempotency === undefined) return;
  const { requestId, fingerprint } = call.idempotency;
  const claimed = await tx.query(
    `INSERT INTO request_ids (tenant_id, caller, method, request_id, fingerprint)
     VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING RETURNING 1`,
    [tenantId, call.caller, call.method, requestId, fingerprint],
  );
  if (claimed.length === 0) throw new RequestRepeated();
}

/** Keeps what the effect was that the call's request id was taken for. */
export async function keepEffect(
  tx: Tx,
  tenantId: TenantId,
  call: Call,
  { effect, maskKeyId, mac }: KeptEffect,
): Promise<void> {
  await tx.query(
    `UPDATE request_ids SET effect = $5, mask_key_id = $6, mac = $7
     WHERE tenant_id = $1 AND caller = $2 AND method = $3 AND request_id = $4`,
    [tenantId, call.caller, call.method, call.idempotency?.requestId, effect, maskKeyId, mac],
  );
}

/**
 * What is kept of the effect that the call's request had before; undefined where it had none, null
 * where nothing is kept of it. Throws REQUEST_ID_REUSED when the id was another request's.
 */
export async function findEffect(
  tx: Tx,
  tenantId: TenantId,
  call: Call,
): Promise<KeptEffect | null | undefined> {
  if (call.idempotency === undefined) return undefined;
  const { requestId, fingerprint } = call.idempotency;
  const [row] = await tx.query<
    { fingerprint: Buffer } & { [Name in keyof KeptEffect]: KeptEffect[Name] | null }
  >(
    `SELECT fingerprint, effect, mask_key_id AS "maskKeyId", mac FROM request_ids
     WHERE tenant_id = $1 AND caller = $2 AND method = $3 AND request_id = $4`,
    [tenantId, call.caller, call.method, requestId],
  );
  if (row === undefined) return undefined;
  if (!row.fingerprint.equals(fingerprint)) throw new KeywardError('REQUEST_ID_REUSED');
  const { effect, maskKeyId, mac } = row;
  return effect === null || maskKeyId === null || mac === null ? null : { effect, maskKeyId, mac };
}
