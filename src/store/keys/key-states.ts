/**
 * How a key stands, as its row and those of its versions say, with the seal of that: read, and
 * written.
 *
 * Invariant: what changes how a key stands is done in a `StateTx`, which `key-seals.ts` alone
 * gives: there the seal of what was is verified before, and what is, sealed after. Nothing that is
 * read here has been verified. What a seal is computed over isn't known here.
 */
import type { KeyId, SealKeyId, TenantId } from '../../ids.ts';
import { microseconds, timeOf } from '../core/times.ts';
import type { Tx } from '../core/transaction.ts';

/** Of a key, and of a key version. */
export type LifecycleState = 'ENABLED' | 'DISABLED' | 'DESTROY_SCHEDULED' | 'DESTROYED';

/** How one version stands. */
export interface VersionStateRecord {
  readonly version: number;
  readonly state: LifecycleState;
  /**
   * In microseconds since 1970, as Postgres has it; more than 64 bits for one that is no such
   * number.
   */
  readonly destroyAt: bigint | null;
}

/** What the service does to a key by itself, and when. Null: never. */
export interface KeyScheduleRecord {
  /** In seconds. */
  readonly rotationPeriod: bigint | null;
  /** As the time of a version. */
  readonly nextRotationAt: bigint | null;
  readonly rotationUsageLimit: bigint | null;
  readonly maintenancePaused: boolean;
}

/** Within which bounds agents keep keys of a key's epochs. */
export interface DerivationEpochRecord {
  readonly maxMessages: number;
  readonly maxAgeSeconds: number;
}

/** How a key stands, of one instant. */
export interface KeyStateRecord {
  readonly tenantId: TenantId;
  readonly keyId: KeyId;
  readonly name: string;
  readonly revision: bigint;
  readonly state: LifecycleState;
  /** As of a version. */
  readonly destroyAt: bigint | null;
  readonly primaryVersion: number;
  /** All of them, in the order of their numbers. */
  readonly versions: readonly VersionStateRecord[];
  readonly schedule: KeyScheduleRecord;
  /** Null for none. */
  readonly derivationEpoch: DerivationEpochRecord | null;
  /** Both null where it isn't sealed. */
  readonly sealKeyId: SealKeyId | null;
  /** 32 bytes. */
  readonly seal: Buffer | null;
}

/**
 * The columns, of `keys k`, together with `tenant_id`, `key_id`, `name`, `key_state` and
 * `key_revision`. The versions are one text: of 5,000 it takes 4 ms, as rows or arrays several
 * times that.
 */
export const STATE_COLUMNS = `k.primary_version, k.state_seal_key_id, k.state_seal,
    ${microseconds('k.destroy_at')} AS destroy_microseconds, k.rotation_period_seconds::text AS period_text,
    ${microseconds('k.next_rotation_at')} AS next_rotation_microseconds,
    k.rotation_usage_limit::text AS usage_limit_text, k.maintenance_paused,
    k.epoch_max_messages, k.epoch_max_age_seconds,
    (SELECT string_agg(s.version || ' ' || s.state || coalesce(' ' || ${microseconds('s.destroy_at')}, ''), ','
       ORDER BY s.version)
     FROM key_versions s WHERE s.tenant_id = k.tenant_id AND s.key_id = k.key_id) AS version_states`;

/** A row with {@link STATE_COLUMNS}. */
export interface StateRow {
  tenant_id: TenantId;
  key_id: KeyId;
  name: string;
  key_state: LifecycleState;
  key_revision: string;
  primary_version: number;
  destroy_microseconds: string | null;
  period_text: string | null;
  next_rotation_microseconds: string | null;
  usage_limit_text: string | null;
  maintenance_paused: boolean;
  epoch_max_messages: number | null;
  epoch_max_age_seconds: number | null;
  version_states: string | null;
  state_seal_key_id: SealKeyId | null;
  state_seal: Buffer | null;
}

export function fromStateRow(row: StateRow): KeyStateRecord {
  return {
    tenantId: row.tenant_id,
    keyId: row.key_id,
    name: row.name,
    revision: BigInt(row.key_revision),
    state: row.key_state,
    destroyAt: timeOf(row.destroy_microseconds),
    primaryVersion: row.primary_version,
    versions: versionsOf(row.version_states),
    schedule: {
      rotationPeriod: numberOf(row.period_text),
      nextRotationAt: timeOf(row.next_rotation_microseconds),
      rotationUsageLimit: numberOf(row.usage_limit_text),
      maintenancePaused: row.maintenance_paused,
    },
    derivationEpoch: epochOf(row),
    sealKeyId: row.state_seal_key_id,
    seal: row.state_seal,
  };
}

/** Of one without the other: zero, which is no bound and has no seal. */
function epochOf({
  epoch_max_messages: maxMessages,
  epoch_max_age_seconds: maxAgeSeconds,
}: StateRow): DerivationEpochRecord | null {
  if (maxMessages === null && maxAgeSeconds === null) return null;
  return { maxMessages: maxMessages ?? 0, maxAgeSeconds: maxAgeSeconds ?? 0 };
}

function versionsOf(text: string | null): VersionStateRecord[] {
  if (text === null) return [];
  return text.split(',').map((part) => {
    const [version, state, time = null] = part.split(' ');
    return { version: Number(version), state: state as LifecycleState, destroyAt: timeOf(time) };
  });
}

function numberOf(text: string | null): bigint | null {
  return text === null ? null : BigInt(text);
}

/** All columns of a state, of `keys k`. */
export const STATES = `k.tenant_id, k.key_id, k.name, k.state AS key_state, k.revision AS key_revision, ${STATE_COLUMNS}`;

/** How the key stands. */
export async function findKeyState(
  tx: Tx,
  tenantId: TenantId,
  keyId: KeyId,
): Promise<KeyStateRecord | undefined> {
  const [row] = await tx.query<StateRow>(
    `SELECT ${STATES} FROM keys k WHERE k.tenant_id = $1 AND k.key_id = $2`,
    [tenantId, keyId],
  );
  return row && fromStateRow(row);
}
