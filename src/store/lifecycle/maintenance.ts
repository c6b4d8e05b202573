/**
 * What the reconciler has to do by itself, found by the database's clock.
 *
 * Everything is asked for again inside the transaction that does it: what is found here may be done
 * by another replica meanwhile. Knows no key material.
 */
import { KeywardError } from '../../errors.ts';
import type { KeyId, TenantId } from '../../ids.ts';
import { HAS_STALE_POLICIES } from '../access/policies.ts';
import { SILENCES_SEAL } from '../alerts/silences.ts';
import { HAS_STALE_PASSKEYS } from '../approvals/passkeys.ts';
import { HAS_STALE_OPERATIONS } from '../approvals/pending.ts';
import { HAS_STALE_APPROVAL_RULES } from '../approvals/rules.ts';
import { CANARIES_SEAL } from '../canaries/canaries.ts';
import { atMost } from '../core/batches.ts';
import type { Deadline, Tx } from '../core/transaction.ts';
import {
  type DueTokenKey,
  findDueTokenKeys,
  HAS_DUE_TOKEN_KEYS,
} from '../hsm-token/token-objects.ts';
import { HAS_STALE_STATES } from '../keys/key-seals.ts';
import { eraseCopies } from '../keys/key-versions.ts';
import type { StateTx } from '../keys/state-draft.ts';
import type { Store } from '../store.ts';
import { HAS_STALE_TENANTS } from '../tenants/tenant-seals.ts';
import { MAINTENANCE_SEAL } from './maintenance-switch.ts';
import type { RotationCause } from './rewrap-jobs.ts';

/** What a key must be for the reconciler to use it: of `keys k`, `tenants t`. */
export const MAY_BE_USED = `k.state = 'ENABLED' AND NOT k.maintenance_paused AND t.state = 'ENABLED'
  AND NOT (SELECT paused FROM maintenance)`;

/** A key that is to be rotated. */
export interface DueRotation {
  readonly tenantId: TenantId;
  readonly keyId: KeyId;
  /** The last parts of its name. */
  readonly tenant: string;
  readonly key: string;
}

interface DueRow {
  tenant_id: TenantId;
  key_id: KeyId;
  tenant: string;
  key: string;
}

/**
 * Why a key that this transaction has locked is to be rotated now; undefined when it isn't, or not
 * any more.
 */
export async function findRotationCause(
  tx: Tx,
  tenantId: TenantId,
  keyId: KeyId,
): Promise<RotationCause | undefined> {
  const [row] = await tx.query<{ cause: RotationCause }>(
    `SELECT CASE WHEN k.next_rotation_at <= now() THEN 'schedule' ELSE 'usage' END AS cause
     FROM keys k JOIN tenants t USING (tenant_id)
     WHERE k.tenant_id = $1 AND k.key_id = $2 AND ${MAY_BE_USED}
       AND (k.next_rotation_at <= now()
         OR k.usage_limit_reached_at IS NOT NULL AND k.rotation_usage_limit IS NOT NULL)`,
    [tenantId, keyId],
  );
  return row?.cause;
}

/** So many days from now, by the database's clock. */
export async function timeAfterDays(tx: Tx, days: number): Promise<Date> {
  const [row] = await tx.query<{ at: Date }>('SELECT now() + make_interval(days => $1) AS at', [
    days,
  ]);
  if (row === undefined) throw new Error('the database has no time');
  return row.at;
}

/** A key, or one version of it, whose time to be destroyed has come. */
export interface DueDestruction {
  readonly tenantId: TenantId;
  readonly keyId: KeyId;
  readonly tenant: string;
  readonly key: string;
  /** Null for the whole key. */
  readonly version: number | null;
}

interface DueDestructionRow extends DueRow {
  version: number | null;
}

/** What must be so for what is due to be destroyed: of `keys k`. */
export const DESTRUCTION_MAY_BE =
  'NOT (SELECT paused FROM maintenance) AND NOT k.maintenance_paused';

const SELECT_SHREDDINGS = `SELECT tenant_id AS "tenantId", name AS tenant FROM tenants
  WHERE state = 'SHRED_SCHEDULED' AND shred_at <= now() ORDER BY shred_at ${atMost('$1')}`;

/** What there is to do. */
export interface Due {
  readonly rotations: readonly DueRotation[];
  readonly destructions: readonly DueDestruction[];
  readonly shreddings: readonly DueShredding[];
  /**
   * Steps of root and seal keys on their way: also while maintenance is paused, since somebody
   * asked for them.
   */
  readonly tokenKeys: readonly DueTokenKey[];
  /** Whether any re-wrap job is under way. */
  readonly hasJobs: boolean;
  /** Whether any record is sealed by a seal key that was replaced. */
  readonly hasStaleSeals: boolean;
}

/** A tenant whose time to be shredded has come. */
export interface DueShredding {
  readonly tenantId: TenantId;
  readonly tenant: string;
}

// Each part over an index that holds only what is in question; conditions joined by OR would read
// all keys.
const due = (condition: string, time: string) =>
  `(SELECT k.tenant_id, k.key_id, t.name AS tenant, k.name AS key FROM keys k JOIN tenants t USING (tenant_id)
    WHERE ${condition} AND ${MAY_BE_USED} ORDER BY ${time} ${atMost('$1')})`;
const SELECT_ROTATIONS = `${due('k.next_rotation_at <= now()', 'k.next_rotation_at')} UNION ${due(
  'k.usage_limit_reached_at IS NOT NULL AND k.rotation_usage_limit IS NOT NULL',
  'k.usage_limit_reached_at',
)}`;
const SELECT_DESTRUCTIONS = `(
    SELECT k.tenant_id, k.key_id, t.name AS tenant, k.name AS key, NULL::integer AS version
    FROM keys k JOIN tenants t USING (tenant_id)
    WHERE k.state = 'DESTROY_SCHEDULED' AND k.destroy_at <= now() AND ${DESTRUCTION_MAY_BE}
    ORDER BY k.destroy_at ${atMost('$1')})
  UNION ALL (
    SELECT k.tenant_id, k.key_id, t.name, k.name, v.version
    FROM key_versions v JOIN keys k USING (tenant_id, key_id) JOIN tenants t USING (tenant_id)
    WHERE v.state = 'DESTROY_SCHEDULED' AND v.destroy_at <= now() AND ${DESTRUCTION_MAY_BE}
    ORDER BY v.destroy_at ${atMost('$1')})`;

// Whether there is anything: most ticks end with this one statement. The earliest of each, which is
// an index's first; of rows that satisfy a condition Postgres may believe that there are many, and
// look for one by reading the table.
const isDue = (table: 'keys' | 'key_versions' | 'tenants', time: string, state?: string) =>
  `coalesce((SELECT min(${time}) FROM ${table} ${state === undefined ? '' : `WHERE state = '${state}'`}) <= now(), false)`;
const ANYTHING = `SELECT
    EXISTS (SELECT FROM rewrap_jobs WHERE state = 'RUNNING') AS jobs,
    ${isDue('keys', 'next_rotation_at')}
      OR (SELECT min(usage_limit_reached_at) FROM keys WHERE rotation_usage_limit IS NOT NULL) IS NOT NULL
      AS rotations,
    ${isDue('keys', 'destroy_at', 'DESTROY_SCHEDULED')}
      OR ${isDue('key_versions', 'destroy_at', 'DESTROY_SCHEDULED')} AS destructions,
    ${isDue('tenants', 'shred_at', 'SHRED_SCHEDULED')} AS shreddings,
    ${HAS_DUE_TOKEN_KEYS} AS token_keys,
    ${HAS_STALE_STATES} OR ${HAS_STALE_POLICIES} OR ${HAS_STALE_TENANTS} OR ${MAINTENANCE_SEAL.isStale}
      OR ${CANARIES_SEAL.isStale} OR ${SILENCES_SEAL.isStale} OR ${HAS_STALE_APPROVAL_RULES}
      OR ${HAS_STALE_PASSKEYS} OR ${HAS_STALE_OPERATIONS} AS stale_seals`;
type Anything = Record<
  'jobs' | 'rotations' | 'destructions' | 'shreddings' | 'token_keys' | 'stale_seals',
  boolean
>;
const NOTHING = { rotations: [], destructions: [], shreddings: [] } as const;

/**
 * What is due, at most `limit` of each kind; nothing that the service does by itself while
 * maintenance is paused, as `isPaused` says.
 */
export function findDue(
  store: Store,
  call: Deadline,
  limit: number,
  isPaused: (tx: Tx) => Promise<boolean>,
): Promise<Due> {
  return store.reconcile(call, async (tx) => {
    const paused = await isPaused(tx);
    const [any] = await tx.query<Anything>(ANYTHING);
    if (any === undefined) throw new Error('a question got no answer');
    const tokenKeys = any.token_keys ? await findDueTokenKeys(tx, limit) : [];
    if (paused) return { ...NOTHING, tokenKeys, hasJobs: false, hasStaleSeals: false };
    const rotations = any.rotations ? await tx.query<DueRow>(SELECT_ROTATIONS, [limit]) : [];
    const destructions = any.destructions
      ? await tx.query<DueDestructionRow>(SELECT_DESTRUCTIONS, [limit])
      : [];
    const shreddings = any.shreddings
      ? await tx.query<DueShredding>(SELECT_SHREDDINGS, [limit])
      : [];
    return {
      rotations: rotations.map(fromDueRow),
      destructions: destructions.map((row) => ({ ...fromDueRow(row), version: row.version })),
      shreddings,
      tokenKeys,
      hasJobs: any.jobs,
      hasStaleSeals: any.stale_seals,
    };
  });
}

function fromDueRow({ tenant_id: tenantId, key_id: keyId, tenant, key }: DueRow): DueRotation {
  return { tenantId, keyId, tenant, key };
}

/**
 * Erases the key's versions, or the one, whose time has come, and marks what is destroyed; with the
 * reconciler's rights, in a transaction that has locked the key. Returns whether there was anything
 * to destroy: not if it was restored, paused or destroyed meanwhile. Throws KEY_VERSION_IN_USE for
 * a version that is the primary or referred to.
 */
export async function destroyDue(
  tx: StateTx,
  { tenantId, keyId, version }: Pick<DueDestruction, 'tenantId' | 'keyId' | 'version'>,
): Promise<boolean> {
  const marked = await tx.query(
    version === null
      ? `UPDATE keys k SET state = 'DESTROYED', destroyed_at = clock_timestamp(), revision = revision + 1
         WHERE tenant_id = $1 AND key_id = $2 AND $3::integer IS NULL
           AND k.state = 'DESTROY_SCHEDULED' AND k.destroy_at <= now() AND ${DESTRUCTION_MAY_BE}
         RETURNING 1`
      : `UPDATE keys k SET revision = k.revision + 1 FROM key_versions v
         WHERE k.tenant_id = $1 AND k.key_id = $2 AND v.tenant_id = $1 AND v.key_id = $2 AND v.version = $3
           AND v.state = 'DESTROY_SCHEDULED' AND v.destroy_at <= now() AND ${DESTRUCTION_MAY_BE}
           AND k.primary_version <> v.version AND NOT EXISTS (
             SELECT FROM data_keys d WHERE d.tenant_id = $1 AND d.key_id = $2 AND d.version = $3)
         RETURNING 1`,
    [tenantId, keyId, version],
  );
  if (marked.length === 0) {
    if (version !== null) await refuseBlocked(tx, tenantId, keyId, version);
    return false;
  }
  await tx.query(
    `UPDATE key_versions SET state = 'DESTROYED', destroyed_at = clock_timestamp(), wrapped = '',
       revision = revision + 1
     WHERE tenant_id = $1 AND key_id = $2 AND version = coalesce($3, version) AND state <> 'DESTROYED'`,
    [tenantId, keyId, version],
  );
  await eraseCopies(tx, tenantId, { keyId, version });
  if (version === null) tx.draft.destroyKey();
  else tx.draft.destroyVersions(version);
  return true;
}

/**
 * Throws KEY_VERSION_IN_USE for a version that is due all the same. Nothing of ours makes one so; a
 * restored backup may.
 */
async function refuseBlocked(
  tx: Tx,
  tenantId: TenantId,
  keyId: KeyId,
  version: number,
): Promise<void> {
  const due = await tx.query(
    `SELECT 1 FROM key_versions v JOIN keys k USING (tenant_id, key_id)
     WHERE v.tenant_id = $1 AND v.key_id = $2 AND v.version = $3
       AND v.state = 'DESTROY_SCHEDULED' AND v.destroy_at <= now() AND ${DESTRUCTION_MAY_BE}`,
    [tenantId, keyId, version],
  );
  if (due.length > 0) throw new KeywardError('KEY_VERSION_IN_USE');
}
