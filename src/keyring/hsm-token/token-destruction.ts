/**
 * Destroying root and seal keys in the token, by an operator with the PIN at hand:
 * `token destroy-key`, `token shred`; and recording ones that only the token knows, `token record`.
 *
 * Invariant: the token is touched only after the rows say that the keys are being destroyed,
 * nothing is under them, and no running agent holds them any more; a command that was cut off
 * anywhere does the rest when it is run again. The server has no way here. Knows no PKCS#11 and no
 * SQL.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { monotonicNow } from '../../call.ts';
import type { RequestOf } from '../../hsm/protocol.ts';
import { RECORD } from '../../hsm/record-seal.ts';
import { encodeTenantState } from '../../hsm/tenant-state.ts';
import type { TokenObject } from '../../hsm/token-profile.ts';
import type { AnyId } from '../../ids.ts';
import type { OwnerConnection } from '../../store/core/owner.ts';
import {
  beginDestruction,
  countAgentsHolding,
  endDestruction,
  findDestructible,
  findShreddedRoots,
  type Operator,
  recordAbandoned,
} from '../../store/hsm-token/token-destruction.ts';
import type { TokenKeySealer } from '../../store/hsm-token/token-key-set.ts';
import type { TokenObjectRecord } from '../../store/hsm-token/token-objects.ts';
import { type StoredTenant, selectTenants, tenantRecord } from '../../store/tenants/tenants.ts';
import type { TokenStatusRecord } from './token-status.ts';

/** Replicas hear within a second, and replace their agents one by one. */
const PATIENCE_MS = 60_000;
const LOOK_MS = 250;

export interface DestructionParts {
  readonly owner: OwnerConnection;
  /** Destroys objects in the token; those that aren't there are well. Returns how many were. */
  readonly destroy: (objects: readonly TokenObject[]) => Promise<number>;
  /** Returns whether the one record has that seal. */
  readonly verify: (request: RequestOf<'verifyRecords'>) => Promise<boolean>;
  /**
   * Opens the token to verify and seal what is recorded of its keys. Needed only for keys of the
   * token that serves: what becomes of a former one's isn't sealed.
   */
  readonly withSealer: <T>(work: (sealer: TokenKeySealer) => Promise<T>) => Promise<T>;
  readonly caller: string;
}

/** What was destroyed. */
export interface DestroyedKeys {
  readonly objects: readonly TokenObjectRecord[];
  /** How many of them this token had. */
  readonly inToken: number;
}

/** One retired or abandoned key. Throws Error, in words for the operator. */
export async function destroyTokenKey(
  parts: DestructionParts,
  objectId: string,
): Promise<DestroyedKeys> {
  return destroyAll(
    parts,
    'keyward-server token destroy-key',
    await findDestructible(parts.owner, objectId),
  );
}

/**
 * All root keys of a shredded tenant, which must be what its seal says: a name in the database
 * could be another tenant's. Throws Error, in words for the operator.
 */
export async function shredTokenKeys(
  parts: DestructionParts,
  tenant: string,
): Promise<DestroyedKeys> {
  const [stored] = await selectTenants(parts.owner.query, 'WHERE name = $1', [tenant]);
  if (stored === undefined) throw new Error(`cannot shred ${tenant}: there is no such tenant`);
  if (!(await isAsSealed(parts, stored)))
    throw new Error(
      `cannot shred ${tenant}: what is stored of the tenant failed verification; repair the row`,
    );
  return destroyAll(
    parts,
    'keyward-server token shred',
    await findShreddedRoots(parts.owner, tenantRecord(stored.claims)),
  );
}

async function isAsSealed(
  { verify }: Pick<DestructionParts, 'verify'>,
  { claims, sealKeyId, seal }: StoredTenant,
): Promise<boolean> {
  if (sealKeyId === null || seal === null) return false;
  try {
    const content = encodeTenantState(claims);
    return await verify({ sealKeyId, kind: RECORD.tenant, items: [{ content, seal }] });
  } catch (error) {
    if (error instanceof RangeError) return false;
    throw error;
  }
}

/**
 * A key that the token has and the database doesn't know. Throws Error, in words for the operator.
 */
export function unrecordedKey(
  { unrecorded, environmentId }: Pick<TokenStatusRecord, 'unrecorded' | 'environmentId'>,
  objectId: string,
): { readonly role: 'root' | 'seal'; readonly objectId: AnyId } {
  const found = unrecorded.find((each) => each.objectId === objectId);
  const role = (['root', 'seal'] as const).find(
    (each) => found?.label === `keyward ${each} ${environmentId}`,
  );
  if (role === undefined)
    throw new Error(
      `cannot record ${objectId}: the token has no unrecorded root or seal key of that id for this environment`,
    );
  return { role, objectId: objectId as AnyId };
}

/**
 * Records such a key, so that services start: never used, and to be destroyed when it is sure that
 * no newer database needs it. Throws Error, in words for the operator.
 */
export async function recordTokenKey(
  {
    owner,
    caller,
    sealer,
  }: Pick<DestructionParts, 'owner' | 'caller'> & { readonly sealer: TokenKeySealer },
  key: { readonly role: 'root' | 'seal'; readonly objectId: AnyId },
): Promise<void> {
  await recordAbandoned(owner, { caller, method: 'keyward-server token record' }, sealer, key);
}

async function destroyAll(
  { owner, destroy, withSealer, caller }: DestructionParts,
  method: string,
  objects: readonly TokenObjectRecord[],
): Promise<DestroyedKeys> {
  const operator: Operator = { caller, method };
  const sealing = (change: (sealer: TokenKeySealer | undefined) => Promise<void>) =>
    objects.every(({ tokenState }) => tokenState === 'FORMER')
      ? change(undefined)
      : withSealer(change);
  await sealing((sealer) => beginDestruction(owner, operator, sealer, objects));
  await untilReleased(owner, objects);
  const inToken = await destroy(objects.map(({ objectId, role }) => ({ objectId, role })));
  await sealing((sealer) => endDestruction(owner, operator, sealer, objects));
  return { objects, inToken };
}

async function untilReleased(
  owner: OwnerConnection,
  objects: readonly TokenObjectRecord[],
): Promise<void> {
  const until = monotonicNow() + PATIENCE_MS;
  for (;;) {
    const holding = await countAgentsHolding(owner, objects);
    if (holding === 0) return;
    if (monotonicNow() > until)
      throw new Error(
        `cannot destroy the key: ${holding} replicas still hold it; run this again, or stop them first`,
      );
    await delay(LOOK_MS);
  }
}
