/**
 * Key versions that aren't under their tenant's current root key, or not sealed by the current seal
 * key: found, read, written.
 *
 * Invariants: a version is written only under a lease that holds, while what it is brought under is
 * current, which it stays until that is committed; and only if its sealed row is still what was
 * read. States change beside that, and destroyed stays destroyed. Places are in the order of the
 * primary key, across tenants. Doesn't know how a version is re-wrapped.
 */
import type { KeyId, TenantId } from '../../ids.ts';
import { atMost } from '../core/batches.ts';
import { lockedInOrder } from '../core/row-locks.ts';
import type { Deadline, Tx } from '../core/transaction.ts';
import { JOIN_CURRENT_KEYS } from '../hsm-token/token-objects.ts';
import { type KeyVersionRecord, VERSION_COLUMNS } from '../keys/key-versions.ts';
import type { Store } from '../store.ts';
import {
  type Lease,
  moveOn,
  type PlannedJob,
  type PlanStep,
  type Progress,
} from './rewrap-ranges.ts';
import {
  IS_AS_READ,
  type KeyVersionToRewrap,
  REWRAPPED_BATCH,
  type RewrappedKeyVersion,
  type ToRewrapRow,
  toRewrap,
  valuesOf,
} from './rewrapped-key-versions.ts';

const STALE = `v.state <> 'DESTROYED'
  AND (v.root_key_id <> current_root.object_id OR v.seal_key_id <> current_seal.object_id)`;
const FROM_VERSIONS = `FROM key_versions v JOIN tenants t ON t.tenant_id = v.tenant_id ${JOIN_CURRENT_KEYS}`;
const BEGINNING = placeOf({
  tenantId: '00000000-0000-0000-0000-000000000000' as TenantId,
  keyId: '00000000-0000-0000-0000-000000000000' as KeyId,
  version: 0,
});

/** A version's place, as text: what ranges of key versions begin and end with. */
export function placeOf({
  tenantId,
  keyId,
  version,
}: Pick<KeyVersionRecord, 'tenantId' | 'keyId' | 'version'>): string {
  return `${tenantId}/${keyId}/${String(version).padStart(10, '0')}`;
}

function partsOf(place: string): [tenantId: string, keyId: string, version: number] {
  const [tenantId = '', keyId = '', version = ''] = place.split('/');
  return [tenantId, keyId, Number(version)];
}

/** Plans a range of stale versions in the job's scope. */
export async function planKeyVersions(
  tx: Tx,
  { frontier, scopeTenantId }: PlannedJob,
  size: number,
): Promise<PlanStep | undefined> {
  const afterName = frontier.name ?? BEGINNING;
  const rows = await tx.query<{ tenantId: TenantId; keyId: KeyId; version: number }>(
    `SELECT v.tenant_id AS "tenantId", v.key_id AS "keyId", v.version ${FROM_VERSIONS}
     WHERE (v.tenant_id, v.key_id, v.version) > ($1::uuid, $2::uuid, $3)
       AND ($4::uuid IS NULL OR v.tenant_id = $4) AND ${STALE}
     ORDER BY v.tenant_id, v.key_id, v.version ${atMost('$5')}`,
    [...partsOf(afterName), scopeTenantId, size],
  );
  const last = rows.at(-1);
  if (last === undefined) return undefined;
  const untilName = placeOf(last);
  return {
    frontier: { tenantId: null, keyId: null, name: untilName },
    range: { tenantId: null, keyId: null, afterName, untilName, total: rows.length },
  };
}

/** The next at most `size` stale versions of a range, beginning behind `afterName`. */
export function readKeyVersions(
  store: Store,
  call: Deadline,
  { afterName, untilName }: Pick<Lease, 'afterName' | 'untilName'>,
  size: number,
): Promise<KeyVersionToRewrap[]> {
  return store.reconcile(call, async (tx) => {
    const rows = await tx.query<ToRewrapRow>(
      `SELECT ${VERSION_COLUMNS}, t.name AS tenant, k.name AS key, current_root.object_id AS to_root,
         current_seal.object_id AS to_seal
       ${FROM_VERSIONS} JOIN keys k ON k.tenant_id = v.tenant_id AND k.key_id = v.key_id
       WHERE (v.tenant_id, v.key_id, v.version) > ($1::uuid, $2::uuid, $3)
         AND (v.tenant_id, v.key_id, v.version) <= ($4::uuid, $5::uuid, $6) AND ${STALE}
       ORDER BY v.tenant_id, v.key_id, v.version ${atMost('$7')}`,
      [...partsOf(afterName), ...partsOf(untilName), size],
    );
    return rows.map(toRewrap);
  });
}

const REWRAPPED = lockedInOrder({
  batch: REWRAPPED_BATCH,
  primaryKey: 'tenant_id, key_id, version',
  rows: 'key_versions v',
  where: IS_AS_READ,
});

/**
 * Writes what became of a batch. `lost` when the lease is another's by now or the job has ended,
 * `moved` when something that versions were brought under isn't current any more, or maintenance is
 * paused: then nothing was written.
 */
export function writeKeyVersions(
  store: Store,
  call: Deadline,
  lease: Lease,
  items: readonly RewrappedKeyVersion[],
  progress: Progress,
): Promise<'written' | 'lost' | 'moved'> {
  return store.reconcile(call, async (tx) => {
    const targets = [...new Set(items.flatMap(({ after }) => [after.rootKeyId, after.sealKeyId]))];
    const current = await tx.query(
      `SELECT 1 FROM token_objects WHERE object_id = ANY ($1::uuid[]) AND is_current
         AND NOT (SELECT paused FROM maintenance)
       ORDER BY object_id FOR SHARE OF token_objects`,
      [targets],
    );
    if (current.length < targets.length) return 'moved';
    if (!(await moveOn(tx, lease, progress))) return 'lost';
    await tx.query(
      `WITH ${REWRAPPED}
       UPDATE key_versions v SET root_key_id = b.root_key_id, wrap = b.wrap, wrapped = b.wrapped,
         seal_key_id = b.seal_key_id, seal = b.seal
       FROM locked b WHERE ${IS_AS_READ}`,
      valuesOf(items),
    );
    return 'written';
  });
}
