/**
 * The seals of keys' states: the one door through which states change, and what finds seals under
 * replaced seal keys.
 *
 * Invariants: how a key stands is changed while its row is locked, after the seal of how it stood
 * was verified, and is sealed anew before the transaction ends, by the seal key that is current and
 * stays so until then; or nothing is changed. A seal is replaced by another of the same state only
 * while the row still has the one that was verified. Who verifies and seals is given: this knows no
 * HSM.
 */
import { randomUUID } from 'node:crypto';
import { KeywardError } from '../../errors.ts';
import type { KeyId, SealKeyId, TenantId } from '../../ids.ts';
import { insertAuditEntry } from '../audit/audit.ts';
import { atMost, firstUnder } from '../core/batches.ts';
import type { OwnerConnection } from '../core/owner.ts';
import { lockedInOrder } from '../core/row-locks.ts';
import type { MutationTx, Query, Tx } from '../core/transaction.ts';
import { holdCurrentSealKey, holdSealKeys } from '../hsm-token/token-objects.ts';
import { keyChanged } from './key-content.ts';
import { fromStateRow, type KeyStateRecord, STATES, type StateRow } from './key-states.ts';
import { findKey, type LockedKey, lockKey } from './keys.ts';
import { StateDraft, type StateTx } from './state-draft.ts';

/**
 * Verifies and seals for one change. Each throws HSM_UNAVAILABLE and the like when it can't be
 * done.
 */
export interface StateSealer {
  /** Throws KEY_STATE_CORRUPT unless it is what its seal is of. */
  verify(state: KeyStateRecord): Promise<void>;
  seal(state: KeyStateRecord, sealKeyId: SealKeyId): Promise<Buffer>;
  /**
   * The key that was verified to be current for seals, as far as is known, if it is; with a
   * transaction, as it is now. Throws TOKEN_KEYS_CORRUPT, TOKEN_KEY_NOT_READY.
   */
  sealKey(tx?: Tx): Promise<SealKeyId | undefined>;
}

/**
 * Locks a key, changes how it stands, and says so for the audit entry. What is sealed is what
 * `apply` means to make of it, not what the rows say afterwards. Throws RESOURCE_NOT_FOUND,
 * TOKEN_KEY_NOT_READY, and what `sealer` and `apply` throw.
 */
export async function changeStates<T>(
  tx: MutationTx,
  { tenantId, keyId }: { readonly tenantId: TenantId; readonly keyId: KeyId },
  sealer: StateSealer,
  apply: (tx: StateTx, locked: LockedKey) => Promise<T>,
): Promise<T> {
  const locked = await lockKey(tx, tenantId, keyId);
  if (locked === undefined) throw new KeywardError('RESOURCE_NOT_FOUND');
  await sealer.verify(locked.key.sealed);
  // Before anything of a job is locked: whoever makes another seal key current does it in that
  // order.
  const sealKeyId = await holdCurrentSealKey(tx, sealer);
  const draft = new StateDraft(locked.key.sealed);
  const changed = await apply({ ...tx, changes: keyId, draft }, locked);
  const after = await findKey(tx, tenantId, keyId);
  if (after === undefined) throw new Error('a locked key is gone');
  const state = draft.after(after.sealed);
  tx.changed(keyChanged(locked.key, { ...after, sealed: state }));
  if (!draft.isChanged) return changed;
  await tx.query(
    'UPDATE keys SET state_seal_key_id = $3, state_seal = $4 WHERE tenant_id = $1 AND key_id = $2',
    [tenantId, keyId, sealKeyId, await sealer.seal(state, sealKeyId)],
  );
  return changed;
}

/** A state that isn't sealed by the current seal key, and that key. */
export interface StaleState {
  readonly state: KeyStateRecord;
  /** The last part of its tenant's name. */
  readonly tenant: string;
  readonly sealKeyId: SealKeyId;
}

/** A key's place in the order of the primary key. */
export type KeyPlace = Pick<KeyStateRecord, 'tenantId' | 'keyId'>;

const NIL = '00000000-0000-0000-0000-000000000000';
export const FIRST_KEY: KeyPlace = { tenantId: NIL as TenantId, keyId: NIL as KeyId };

/** Seal keys, as `o`, that were replaced and have states under them. */
const FROM_FORMER_KEYS = `FROM token_objects o WHERE o.role = 'seal' AND NOT o.is_current AND o.state <> 'DESTROYED'
  AND ${firstUnder('keys', 'state_seal_key_id', 'tenant_id, key_id')}`;
/** Whether {@link findFormerSealKeys} finds any. */
export const HAS_STALE_STATES = `EXISTS (SELECT ${FROM_FORMER_KEYS})`;

/** The seal keys that were replaced and have states under them. */
export async function findFormerSealKeys(query: Query): Promise<SealKeyId[]> {
  const rows = await query<{ id: SealKeyId }>(
    `SELECT o.object_id AS id ${FROM_FORMER_KEYS} ORDER BY o.created_at`,
  );
  return rows.map(({ id }) => id);
}

/** The next at most `size` states under a seal key that was replaced, behind a place. */
export async function readStaleStates(
  query: Query,
  former: SealKeyId,
  after: KeyPlace,
  size: number,
): Promise<StaleState[]> {
  const rows = await query<StateRow & { tenant: string; to_seal: SealKeyId }>(
    `SELECT ${STATES}, t.name AS tenant, current_seal.object_id AS to_seal
     FROM keys k JOIN tenants t ON t.tenant_id = k.tenant_id
       JOIN token_objects current_seal ON current_seal.role = 'seal' AND current_seal.is_current
     WHERE k.state_seal_key_id = $1 AND (k.tenant_id, k.key_id) > ($2::uuid, $3::uuid)
     ORDER BY k.tenant_id, k.key_id ${atMost('$4')}`,
    [former, after.tenantId, after.keyId, size],
  );
  return rows.map((row) => ({
    state: fromStateRow(row),
    tenant: row.tenant,
    sealKeyId: row.to_seal,
  }));
}

/** A state that was verified, and its seal by another seal key. */
export interface ResealedState {
  readonly before: KeyStateRecord;
  readonly sealKeyId: SealKeyId;
  readonly seal: Buffer;
}

/** Whether `keys k` has the seal that `b` is to replace. */
const IS_AS_BEFORE =
  'k.tenant_id = b.tenant_id AND k.key_id = b.key_id AND k.state_seal = b.before';
const RESEALED = lockedInOrder({
  batch: `unnest($1::uuid[], $2::uuid[], $3::bytea[], $4::uuid[], $5::bytea[])
    AS b (tenant_id, key_id, before, seal_key_id, seal)`,
  primaryKey: 'tenant_id, key_id',
  rows: 'keys k',
  where: IS_AS_BEFORE,
});

/**
 * Writes seals in the place of those that were verified, where the rows still have them. In a
 * transaction, with the rights of the reconciler or the owner. Writes nothing and returns false
 * when the seal key isn't current any more, or maintenance is paused: whoever writes for an
 * operator goes on all the same.
 */
export async function writeSeals(
  query: Query,
  states: readonly ResealedState[],
  { evenIfPaused }: { readonly evenIfPaused: boolean },
): Promise<boolean> {
  if (!(await holdSealKeys(query, states, evenIfPaused))) return false;
  await query(
    `WITH ${RESEALED}
     UPDATE keys k SET state_seal_key_id = b.seal_key_id, state_seal = b.seal FROM locked b
     WHERE ${IS_AS_BEFORE}`,
    [
      states.map(({ before }) => before.tenantId),
      states.map(({ before }) => before.keyId),
      states.map(({ before }) => before.seal),
      states.map(({ sealKeyId }) => sealKeyId),
      states.map(({ seal }) => seal),
    ],
  );
  return true;
}

/**
 * The next at most `size` keys that aren't sealed, behind a place; those of shredded tenants aside.
 * By the owner.
 */
export async function readUnsealed(
  query: Query,
  after: KeyPlace,
  size: number,
): Promise<Omit<StaleState, 'sealKeyId'>[]> {
  const rows = await query<StateRow & { tenant: string }>(
    `SELECT ${STATES}, t.name AS tenant FROM keys k JOIN tenants t ON t.tenant_id = k.tenant_id
     WHERE k.state_seal IS NULL AND t.state <> 'SHREDDED' AND (k.tenant_id, k.key_id) > ($1::uuid, $2::uuid)
     ORDER BY k.tenant_id, k.key_id ${atMost('$3')} FOR UPDATE OF k`,
    [after.tenantId, after.keyId, size],
  );
  return rows.map((row) => ({ state: fromStateRow(row), tenant: row.tenant }));
}

/** The next at most `size` keys that are sealed, whatever by, behind a place. By the owner. */
export async function readSealed(
  query: Query,
  after: KeyPlace,
  size: number,
): Promise<Omit<StaleState, 'sealKeyId'>[]> {
  const rows = await query<StateRow & { tenant: string }>(
    `SELECT ${STATES}, t.name AS tenant FROM keys k JOIN tenants t ON t.tenant_id = k.tenant_id
     WHERE k.state_seal IS NOT NULL AND (k.tenant_id, k.key_id) > ($1::uuid, $2::uuid)
     ORDER BY k.tenant_id, k.key_id ${atMost('$3')}`,
    [after.tenantId, after.keyId, size],
  );
  return rows.map((row) => ({ state: fromStateRow(row), tenant: row.tenant }));
}

/** How many keys are sealed. */
export async function countSealed(query: Query): Promise<number> {
  const [row] = await query<{ count: number }>(
    'SELECT count(*)::float8 AS count FROM keys WHERE state_seal IS NOT NULL',
  );
  return row?.count ?? 0;
}

/** Who seals what nobody has sealed, by which command, for the audit log. */
export interface Operator {
  readonly caller: string;
  readonly method: string;
}

/**
 * Writes seals that an operator vouches for, where the rows have the seals, or none, that they had
 * when they were read; each with its audit entry. By the owner.
 */
export async function writeVouchedSeals(
  { query, stream }: Pick<OwnerConnection, 'query' | 'stream'>,
  { caller, method }: Operator,
  states: readonly (ResealedState & { readonly resource: string })[],
): Promise<void> {
  const sealed = await query<{ tenant_id: TenantId; resource: string }>(
    `UPDATE keys k SET state_seal_key_id = b.seal_key_id, state_seal = b.seal
       FROM unnest($1::uuid[], $2::uuid[], $3::bytea[], $4::uuid[], $5::bytea[], $6::text[])
         AS b (tenant_id, key_id, before, seal_key_id, seal, resource)
       WHERE k.tenant_id = b.tenant_id AND k.key_id = b.key_id AND k.state_seal IS NOT DISTINCT FROM b.before
       RETURNING k.tenant_id, b.resource`,
    [
      states.map(({ before }) => before.tenantId),
      states.map(({ before }) => before.keyId),
      states.map(({ before }) => before.seal),
      states.map(({ sealKeyId }) => sealKeyId),
      states.map(({ seal }) => seal),
      states.map(({ resource }) => resource),
    ],
  );
  const call = { id: randomUUID(), caller, method };
  for (const { tenant_id: tenantId, resource } of sealed)
    await insertAuditEntry({ query, stream }, tenantId, {
      entryId: randomUUID(),
      call,
      resource,
      outcome: 'OK',
    });
}
