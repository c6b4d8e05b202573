/**
 * Keys, as rows; what their versions are is in `key-versions.ts`.
 *
 * Every function wants a transaction that is bound to the tenant, and names the tenant besides:
 * row-level security is the second line, not the first.
 */
import { KeywardError } from '../../errors.ts';
import type { KeyId, TenantId } from '../../ids.ts';
import { atMost } from '../core/batches.ts';
import { type Condition, type FilterColumns, whereClause } from '../core/conditions.ts';
import type { Deadline, Tx } from '../core/transaction.ts';
import { requireCurrentKeys } from '../hsm-token/token-objects.ts';
import type { Store } from '../store.ts';
import { countOf, requireRoom } from '../tenants/tenant-counts.ts';
import {
  type DerivationEpochRecord,
  fromStateRow,
  type KeyStateRecord,
  type LifecycleState,
  STATE_COLUMNS,
  type StateRow,
} from './key-states.ts';
import {
  fromVersionRow,
  INSERT_VERSION,
  type KeyVersionRecord,
  type NewKeyVersion,
  VERSION_COLUMNS,
  type VersionRow,
  versionValues,
} from './key-versions.ts';
import type { StateTx } from './state-draft.ts';

/** Name to value. */
export type Labels = Readonly<Record<string, string>>;

/** What callers set of a key. */
export interface KeySettings {
  readonly description: string;
  readonly labels: Labels;
  /** Null: it isn't rotated by itself. */
  readonly rotationPeriodSeconds: number | null;
  /** Null exactly when the period is. */
  readonly nextRotationAt: Date | null;
  /** After how many encryptions its primary is replaced; null: never. */
  readonly rotationUsageLimit: number | null;
  /** The reconciler leaves it alone. */
  readonly maintenancePaused: boolean;
  /** Null: each message's key is derived in the HSM. */
  readonly derivationEpoch: DerivationEpochRecord | null;
}

export interface KeyRecord extends KeySettings {
  readonly tenantId: TenantId;
  readonly keyId: KeyId;
  readonly name: string;
  readonly state: LifecycleState;
  /** Counts the changes of the key and of its set of versions. */
  readonly revision: string;
  readonly primary: KeyVersionRecord;
  /** By the database's clock, as all times here. */
  readonly createdAt: Date;
  /** When it is, or was, to be destroyed. */
  readonly destroyAt: Date | null;
  readonly destroyedAt: Date | null;
  /** All of this that is sealed, and the seal. */
  readonly sealed: KeyStateRecord;
}

/**
 * What of a key is to be changed; what is absent stays. A period without `nextRotationAt` sets that
 * one period ahead, and null unsets both.
 */
export type KeyChanges = Partial<KeySettings & Pick<KeyRecord, 'state' | 'destroyAt'>>;

interface KeyRow extends VersionRow, StateRow {
  description: string;
  labels: Labels;
  rotation_period_seconds: number | null;
  next_rotation_at: Date | null;
  rotation_usage_limit: number | null;
  key_created_at: Date;
  key_destroy_at: Date | null;
  key_destroyed_at: Date | null;
}

const SELECT_KEYS = `SELECT k.name, k.state AS key_state, k.description, k.labels, k.revision AS key_revision,
    k.rotation_period_seconds::float8, k.next_rotation_at, k.rotation_usage_limit::float8,
    k.created_at AS key_created_at, k.destroy_at AS key_destroy_at, k.destroyed_at AS key_destroyed_at,
    ${STATE_COLUMNS}, ${VERSION_COLUMNS}
  FROM keys k JOIN key_versions v
    ON v.tenant_id = k.tenant_id AND v.key_id = k.key_id AND v.version = k.primary_version`;

function fromKeyRow(row: KeyRow): KeyRecord {
  const sealed = fromStateRow(row);
  return {
    tenantId: row.tenant_id,
    keyId: row.key_id,
    name: row.name,
    state: row.key_state,
    description: row.description,
    labels: row.labels,
    rotationPeriodSeconds: row.rotation_period_seconds,
    nextRotationAt: row.next_rotation_at,
    rotationUsageLimit: row.rotation_usage_limit,
    maintenancePaused: row.maintenance_paused,
    derivationEpoch: sealed.derivationEpoch,
    revision: row.key_revision,
    primary: fromVersionRow(row),
    createdAt: row.key_created_at,
    destroyAt: row.key_destroy_at,
    destroyedAt: row.key_destroyed_at,
    sealed,
  };
}

/** One rotation period from now, as SQL; null without a period. */
const AFTER_PERIOD = (period: string) =>
  `clock_timestamp() + make_interval(secs => ${period}::bigint)`;

/** A key that is to be made. */
export interface NewKey {
  readonly name: string;
  /** With the time of the next rotation, where there is a period. */
  readonly settings: KeySettings;
  readonly version: NewKeyVersion;
  /** The seal of {@link newKeyState}, by the seal key that seals the version. */
  readonly stateSeal: Buffer;
}

/** How a new key stands. */
export function newKeyState({
  name,
  settings,
  version: { tenantId, keyId, version, state },
}: Omit<NewKey, 'stateSeal'>): Omit<KeyStateRecord, 'sealKeyId' | 'seal'> {
  const { rotationPeriodSeconds, nextRotationAt, rotationUsageLimit } = settings;
  const { maintenancePaused, derivationEpoch } = settings;
  const bigint = (count: number | null) => (count === null ? null : BigInt(count));
  const schedule = {
    rotationPeriod: bigint(rotationPeriodSeconds),
    nextRotationAt: nextRotationAt && BigInt(nextRotationAt.getTime()) * 1000n,
    rotationUsageLimit: bigint(rotationUsageLimit),
    maintenancePaused,
  };
  const versions = [{ version, state, destroyAt: null }];
  const key = { tenantId, keyId, name, revision: 1n, state: 'ENABLED', destroyAt: null } as const;
  return { ...key, primaryVersion: version, versions, schedule, derivationEpoch };
}

/** One rotation period from now, by the database's clock. */
export async function timeOfFirstRotation(
  store: Pick<Store, 'query'>,
  call: Deadline,
  periodSeconds: number,
): Promise<Date> {
  // As a Date has it: the seal is made before the row is written.
  const [row] = await store.query<{ at: Date }>(
    call,
    `SELECT date_trunc('milliseconds', ${AFTER_PERIOD('$1')}) AS at`,
    [periodSeconds],
  );
  if (row === undefined) throw new Error('the database has no time');
  return row.at;
}

/**
 * Adds a key with its first version as the primary. Throws RESOURCE_EXISTS for a name that is
 * taken, TOKEN_KEY_NOT_READY, and QUOTA_EXCEEDED when the tenant has as many as the limit.
 */
export async function insertKey(
  tx: Tx,
  key: NewKey,
  limit = Number.POSITIVE_INFINITY,
): Promise<KeyRecord> {
  const { tenantId, keyId, version } = key.version;
  const { settings } = key;
  await requireCurrentKeys(tx, key.version);
  const [inserted] = await tx.query<{ before: number }>(
    `INSERT INTO keys (tenant_id, key_id, name, description, labels, primary_version, rotation_period_seconds,
       next_rotation_at, rotation_usage_limit, maintenance_paused, state_seal_key_id, state_seal,
       epoch_max_messages, epoch_max_age_seconds)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
     ON CONFLICT (tenant_id, name) DO NOTHING
     RETURNING ${countOf('keys')} AS before`,
    [
      tenantId,
      keyId,
      key.name,
      settings.description,
      JSON.stringify(settings.labels),
      version,
      settings.rotationPeriodSeconds,
      // A Date would be sent in local time, which of long ago is off by seconds in many places.
      settings.nextRotationAt?.toISOString() ?? null,
      settings.rotationUsageLimit,
      settings.maintenancePaused,
      key.version.sealKeyId,
      key.stateSeal,
      settings.derivationEpoch?.maxMessages ?? null,
      settings.derivationEpoch?.maxAgeSeconds ?? null,
    ],
  );
  if (inserted === undefined) throw new KeywardError('RESOURCE_EXISTS');
  requireRoom('keys', inserted.before, limit);
  await tx.query(INSERT_VERSION, versionValues(key.version));
  return expectKey(tx, tenantId, keyId);
}

/** The key, in a transaction that has just made, locked or changed it. */
async function expectKey(tx: Tx, tenantId: TenantId, keyId: KeyId): Promise<KeyRecord> {
  const key = await findKey(tx, tenantId, keyId);
  if (key === undefined) throw new Error('a key of this transaction is gone');
  return key;
}

export async function findKeyNamed(
  tx: Tx,
  tenantId: TenantId,
  name: string,
): Promise<KeyRecord | undefined> {
  const [row] = await tx.query<KeyRow>(`${SELECT_KEYS} WHERE k.tenant_id = $1 AND k.name = $2`, [
    tenantId,
    name,
  ]);
  return row && fromKeyRow(row);
}

export async function findKey(
  tx: Tx,
  tenantId: TenantId,
  keyId: KeyId,
): Promise<KeyRecord | undefined> {
  const [row] = await tx.query<KeyRow>(`${SELECT_KEYS} WHERE k.tenant_id = $1 AND k.key_id = $2`, [
    tenantId,
    keyId,
  ]);
  return row && fromKeyRow(row);
}

const KEY_FILTER: FilterColumns = {
  state: () => 'k.state',
  labels: (member) => `k.labels ->> ${member}`,
};

/** At most `limit` keys by name, in the order of its bytes, beginning behind `after`. */
export async function listKeys(
  tx: Tx,
  tenantId: TenantId,
  page: {
    readonly after?: string;
    readonly limit: number;
    readonly conditions?: readonly Condition[];
  },
): Promise<KeyRecord[]> {
  const values: unknown[] = [tenantId, page.after ?? '', page.limit];
  const where = whereClause(page.conditions ?? [], KEY_FILTER, values);
  const rows = await tx.query<KeyRow>(
    `${SELECT_KEYS} WHERE k.tenant_id = $1 AND k.name > $2${where} ORDER BY k.name ${atMost('$3')}`,
    values,
  );
  return rows.map(fromKeyRow);
}

/**
 * A place in the queue for the key $2, as a table of one row, before its row is locked: alone, or
 * together with others. Row locks know no queue: whoever shares one is let in past whoever waits to
 * have it alone, and a stream of new data keys kept rotating and disabling out for as long as it
 * lasted (measured: over 4 s under 30 at once).
 */
export const TURN = {
  alone: '(SELECT pg_advisory_xact_lock(hashtextextended($2::uuid::text, 0))) AS turn',
  shared: '(SELECT pg_advisory_xact_lock_shared(hashtextextended($2::uuid::text, 0))) AS turn',
} as const;

/** A key that this transaction has locked, as it is. */
export interface LockedKey {
  readonly key: KeyRecord;
  readonly highestVersion: number;
}

/**
 * Keeps everyone else from changing the key until the transaction ends; returns it as it then is,
 * and its highest version (which isn't the primary if rolled back to an older one).
 */
export async function lockKey(
  tx: Tx,
  tenantId: TenantId,
  keyId: KeyId,
): Promise<LockedKey | undefined> {
  // In a statement of its own: after waiting for the lock, Postgres would join the key as it became
  // with the versions as they were before, and find no row.
  await tx.query(
    `SELECT 1 FROM ${TURN.alone}, keys WHERE tenant_id = $1 AND key_id = $2 FOR UPDATE OF keys`,
    [tenantId, keyId],
  );
  const key = await findKey(tx, tenantId, keyId);
  return key && { key, highestVersion: key.sealed.versions.at(-1)?.version ?? 0 };
}

/**
 * Adds a version and makes it the primary. Throws CONFLICT for a number that the key has,
 * TOKEN_KEY_NOT_READY.
 */
export async function insertPrimaryVersion(
  tx: StateTx,
  version: NewKeyVersion,
): Promise<KeyRecord> {
  await requireCurrentKeys(tx, version);
  const updated = await tx.query(
    `WITH inserted AS (${INSERT_VERSION} ON CONFLICT DO NOTHING RETURNING 1)
     UPDATE keys SET primary_version = $3, revision = revision + 1, usage_limit_reached_at = NULL,
       next_rotation_at = ${AFTER_PERIOD('rotation_period_seconds')}
     FROM inserted WHERE keys.tenant_id = $1 AND keys.key_id = $2
     RETURNING 1`,
    versionValues(version),
  );
  if (updated.length === 0) throw new KeywardError('CONFLICT');
  tx.draft.addPrimary(version.version);
  return expectKey(tx, version.tenantId, version.keyId);
}

const COLUMN_OF: Readonly<Record<Exclude<keyof KeyChanges, 'derivationEpoch'>, string>> = {
  state: 'state',
  description: 'description',
  labels: 'labels',
  rotationPeriodSeconds: 'rotation_period_seconds',
  nextRotationAt: 'next_rotation_at',
  rotationUsageLimit: 'rotation_usage_limit',
  maintenancePaused: 'maintenance_paused',
  destroyAt: 'destroy_at',
};

/** Changes a key that this transaction has locked, and counts its revision up. */
export async function updateKey(
  tx: StateTx,
  tenantId: TenantId,
  keyId: KeyId,
  changes: KeyChanges,
): Promise<KeyRecord> {
  const values: unknown[] = [tenantId, keyId];
  const assignments = (Object.keys(COLUMN_OF) as (keyof typeof COLUMN_OF)[])
    .filter((name) => changes[name] !== undefined)
    .map((name) => {
      const value = name === 'labels' ? JSON.stringify(changes.labels) : changes[name];
      return `${COLUMN_OF[name]} = $${values.push(value)}`;
    });
  const { rotationPeriodSeconds: period, nextRotationAt, rotationUsageLimit } = changes;
  const { derivationEpoch: epoch } = changes;
  if (epoch !== undefined)
    assignments.push(
      `epoch_max_messages = $${values.push(epoch?.maxMessages ?? null)}`,
      `epoch_max_age_seconds = $${values.push(epoch?.maxAgeSeconds ?? null)}`,
    );
  if (rotationUsageLimit !== undefined) assignments.push('usage_limit_reached_at = NULL');
  if (period !== undefined && nextRotationAt === undefined)
    assignments.push(`next_rotation_at = ${AFTER_PERIOD(`$${values.push(period)}`)}`);
  await tx.query(
    `UPDATE keys SET ${[...assignments, 'revision = revision + 1'].join(', ')} WHERE tenant_id = $1 AND key_id = $2`,
    values,
  );
  tx.draft.changeKey(changes);
  return expectKey(tx, tenantId, keyId);
}
