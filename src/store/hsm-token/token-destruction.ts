/**
 * Token keys that an operator destroys, as rows: what may be destroyed, and that it was; and ones
 * that the token has and the database has never heard of, or no more.
 *
 * By the owner's role alone: the service's can't say that anything is destroyed. Invariant: before
 * the token is touched, the row says DESTROYING, so that nothing new comes under the key, and
 * nothing that isn't destroyed is under it. What becomes of a former token's keys isn't sealed, so
 * there no sealer is needed. Knows no PIN.
 */
import { randomUUID } from 'node:crypto';
import type { AnyId, TenantId } from '../../ids.ts';
import { formatTokenKeyName, SYSTEM_TENANT } from '../../names.ts';
import { insertAuditEntry } from '../audit/audit.ts';
import type { OwnerConnection } from '../core/owner.ts';
import type { TenantRecord } from '../tenants/tenants.ts';
import { countHolders } from './replicas.ts';
import type { TokenKeyDraft } from './token-key-draft.ts';
import { changeTokenKeys, type TokenKeySealer } from './token-key-set.ts';
import {
  SYSTEM_ID,
  selectTokenObjects,
  type TokenObjectRecord,
  type TokenObjectRole,
  type TokenObjectState,
} from './token-objects.ts';

/** Who destroys, by which command, for the audit log. */
export interface Operator {
  readonly caller: string;
  readonly method: string;
}

/**
 * The key of that id, if it may be destroyed. Throws Error, in words for the operator, if it
 * mayn't.
 */
export async function findDestructible(
  owner: OwnerConnection,
  objectId: string,
): Promise<TokenObjectRecord[]> {
  const found = (await selectTokenObjects(owner.query)).find((each) => each.objectId === objectId);
  if (found === undefined) throw new Error(`cannot destroy ${objectId}: no such key is recorded`);
  const isReplaced =
    found.role === 'root' || found.role === 'seal' || found.tokenState === 'FORMER';
  if (!isReplaced)
    throw new Error(
      `cannot destroy ${objectId}: it is the ${found.role} key, which is never replaced`,
    );
  if (found.state === 'CURRENT' || found.state === 'CREATING' || found.state === 'CREATED')
    throw new Error(
      `cannot destroy the ${found.role} key ${objectId}: it is ${found.state}; rotate it first`,
    );
  return [found];
}

/** All root keys of a shredded tenant. Throws Error, in words for the operator, for any other. */
export async function findShreddedRoots(
  owner: OwnerConnection,
  { tenantId, name: tenant, state, shredAt, dedicatedRootKey }: TenantRecord,
): Promise<TokenObjectRecord[]> {
  if (state === 'SHRED_SCHEDULED')
    throw new Error(
      `cannot shred ${tenant}: it is scheduled to be shredded at ${shredAt?.toISOString()}; wait until then`,
    );
  if (state !== 'SHREDDED')
    throw new Error(`cannot shred ${tenant}: it is ${state}; run keyward tenants shred first`);
  if (!dedicatedRootKey)
    throw new Error(
      `cannot shred ${tenant}: it had no root key of its own, so there is none to destroy`,
    );
  const objects = await selectTokenObjects(owner.query);
  return objects.filter((each) => each.tenantId === tenantId && each.role === 'root');
}

/**
 * Says that they are being destroyed, so that agents let go of them. Throws Error, in words for the
 * operator, while key versions are under one; then nothing has changed.
 */
export function beginDestruction(
  owner: OwnerConnection,
  operator: Operator,
  sealer: TokenKeySealer | undefined,
  objects: readonly TokenObjectRecord[],
): Promise<void> {
  const ids = objects.map(({ objectId }) => objectId);
  return changing(owner, sealer, async (keys) => {
    for (const { objectId, state } of objects)
      if (state !== 'DESTROYED') keys?.moveObject(objectId, 'DESTROYING');
    await owner.query(
      `UPDATE token_objects SET state = 'DESTROYING', is_current = false, attempt_until = NULL
       WHERE object_id = ANY ($1::uuid[]) AND state NOT IN ('DESTROYING', 'DESTROYED')`,
      [ids],
    );
    await refuseUsed(owner, ids);
    for (const object of objects)
      await record(owner, operator, object, { outcome: 'BEGUN', state: 'DESTROYING' });
  });
}

async function refuseUsed(owner: OwnerConnection, ids: readonly AnyId[]): Promise<void> {
  const [row] = await owner.query<{ count: number }>(
    `SELECT count(*)::integer AS count FROM key_versions
     WHERE state <> 'DESTROYED' AND (root_key_id = ANY ($1::uuid[]) OR seal_key_id = ANY ($1::uuid[]))`,
    [ids],
  );
  const count = row?.count ?? 0;
  if (count > 0)
    throw new Error(
      `cannot destroy the key: ${count} key versions are still under it; let the re-wrap job end, or look at what it left`,
    );
  const [sealed] = await owner.query<
    Record<
      | 'states'
      | 'policies'
      | 'tenants'
      | 'switches'
      | 'lists'
      | 'rules'
      | 'passkeys'
      | 'operations',
      number
    >
  >(
    `SELECT (SELECT count(*) FROM keys WHERE state_seal_key_id = ANY ($1::uuid[]))::integer AS states,
       (SELECT count(*) FROM access_policies WHERE seal_key_id = ANY ($1::uuid[]))::integer AS policies,
       (SELECT count(*) FROM tenants WHERE seal_key_id = ANY ($1::uuid[]))::integer AS tenants,
       (SELECT count(*) FROM maintenance WHERE seal_key_id = ANY ($1::uuid[]))::integer AS switches,
       (SELECT count(*) FROM (SELECT seal_key_id FROM canary_seals
         UNION ALL SELECT seal_key_id FROM alert_silences) l
         WHERE seal_key_id = ANY ($1::uuid[]))::integer AS lists,
       (SELECT count(*) FROM approval_rules WHERE seal_key_id = ANY ($1::uuid[]))::integer AS rules,
       (SELECT count(*) FROM passkeys WHERE seal_key_id = ANY ($1::uuid[]))::integer AS passkeys,
       (SELECT count(*) FROM pending_operations p WHERE p.seal_key_id = ANY ($1::uuid[])
         OR (ended_at IS NULL AND EXISTS (SELECT FROM operation_decisions d
           WHERE d.tenant_id = p.tenant_id AND d.operation_id = p.operation_id
             AND d.seal_key_id = ANY ($1::uuid[]))))::integer AS operations`,
    [ids],
  );
  const { states = 0, policies = 0, tenants = 0 } = sealed ?? {};
  const { switches = 0, lists = 0, rules = 0, passkeys = 0, operations = 0 } = sealed ?? {};
  if (states + policies + tenants + switches + lists + rules + passkeys + operations > 0)
    throw new Error(
      `cannot destroy the key: the states of ${states} keys, the policies of ${policies} tenants, ` +
        `the rows of ${tenants} tenants, ${switches} maintenance switches, ${lists} lists of ` +
        `canaries or silences, the approval rules of ${rules} tenants, ${passkeys} passkeys and ` +
        `${operations} pending operations, or what was decided on them, are still sealed by it; ` +
        'let the services seal them again, or look at what their logs say of them',
    );
}

/**
 * Records a key that only the token knows, as one that is never used. Throws Error for one that is
 * recorded.
 */
export function recordAbandoned(
  owner: OwnerConnection,
  operator: Operator,
  sealer: TokenKeySealer,
  { objectId, role }: { readonly objectId: AnyId; readonly role: TokenObjectRole },
): Promise<void> {
  return changing(owner, sealer, async (keys) => {
    const tokenId = keys?.currentToken;
    const [row] = await owner.query<{ tenant_id: TenantId }>(
      `INSERT INTO token_objects (tenant_id, object_id, role, token_id, is_current, state, caller)
       VALUES (${SYSTEM_ID}, $1, $2, $4, false, 'ABANDONED', $3)
       ON CONFLICT DO NOTHING RETURNING tenant_id`,
      [objectId, role, operator.caller, tokenId],
    );
    if (row === undefined || tokenId === undefined)
      throw new Error(`cannot record ${objectId}: it is already recorded`);
    keys?.addObject({ objectId, role, tenantId: row.tenant_id, tokenId, state: 'ABANDONED' });
    await record(
      owner,
      operator,
      { tenantId: row.tenant_id, tenant: SYSTEM_TENANT, objectId, role },
      { outcome: 'OK', state: 'ABANDONED' },
    );
  });
}

/** How many replicas still hold one of them in an agent. */
export function countAgentsHolding(
  owner: OwnerConnection,
  objects: readonly TokenObjectRecord[],
): Promise<number> {
  return countHolders(
    owner.query,
    objects.map(({ objectId }) => objectId),
  );
}

/** Says that they are destroyed. */
export function endDestruction(
  owner: OwnerConnection,
  operator: Operator,
  sealer: TokenKeySealer | undefined,
  objects: readonly TokenObjectRecord[],
): Promise<void> {
  return changing(owner, sealer, async (keys) => {
    for (const { objectId } of objects) keys?.moveObject(objectId, 'DESTROYED');
    await owner.query(
      `UPDATE token_objects SET state = 'DESTROYED', destroyed_at = clock_timestamp()
       WHERE object_id = ANY ($1::uuid[]) AND state = 'DESTROYING'`,
      [objects.map(({ objectId }) => objectId)],
    );
    for (const object of objects)
      await record(owner, operator, object, { outcome: 'OK', state: 'DESTROYED' });
  });
}

type Destroyed = Pick<TokenObjectRecord, 'tenantId' | 'tenant' | 'objectId' | 'role'>;
/** A transaction, of which the set's seal tells if there is a sealer. */
function changing(
  owner: OwnerConnection,
  sealer: TokenKeySealer | undefined,
  change: (keys: TokenKeyDraft | undefined) => Promise<void>,
): Promise<void> {
  return owner.transaction(() =>
    sealer === undefined
      ? change(undefined)
      : changeTokenKeys({ query: owner.query }, sealer, ({ keys }) => change(keys)),
  );
}

/** The audit entry, and the change that every replica hears of. */
async function record(
  owner: OwnerConnection,
  { caller, method }: Operator,
  { tenantId, tenant, objectId, role }: Destroyed,
  { outcome, state }: { readonly outcome: string; readonly state: TokenObjectState },
): Promise<void> {
  const call = { id: randomUUID(), caller, method };
  const resource = formatTokenKeyName({ tenant }, objectId);
  const changed = { kind: 'tokenKey', after: { objectId, role, state } } as const;
  await insertAuditEntry(owner, tenantId, {
    entryId: randomUUID(),
    call,
    resource,
    outcome,
    changed,
  });
  await owner.query(`INSERT INTO changes (tenant_id, kind, subject_id) VALUES ($1, 'token', $2)`, [
    tenantId,
    objectId,
  ]);
}
