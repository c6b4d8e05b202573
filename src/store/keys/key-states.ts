/**
 * How a key stands, as its row and those of its versions say, with the seal of that: read, and
 * written.
 *
 * Invariant: what changes how a key stands is done in a {@link StateTx}, which `key-seals.ts` alone
 * gives: there the seal of what was is verified before, and what is, sealed after. Nothing that is
 * read here has been verified. What a seal is computed over isn't known here.
 */
import type { KeyId, SealKeyId, TenantId } from '../../ids.ts';
import type { Tx } from '../core/transaction.ts';

/** Of a key, and of a key version. */
export type LifecycleState = 'ENABLED' | 'DISABLED' | 'DESTROY_SCHEDULED' | 'DESTROYED';

/** A transaction in which the states of one key, which it has locked, may be changed. */
export type StateTx = Tx & { readonly changes: KeyId };

/** How one version stands. */
export interface VersionStateRecord {
  readonly version: number;
  readonly state: LifecycleState;
  /**
   * In microseconds since 1970, as Postgres has it; {@link NO_TIME} for one that is no such number.
   */
  readonly destroyAt: bigint | null;
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
  /** Both null where it isn't sealed. */
  readonly sealKeyId: SealKeyId | null;
  /** 32 bytes. */
  readonly seal: Buffer | null;
}

/** More than 64 bits: nothing that can be under a seal. */
const NO_TIME = 1n << 64n;

const microseconds = (time: string) =>
  `CASE WHEN isfinite(${time}) THEN trunc(extract(epoch FROM ${time}) * 1000000)::text
    WHEN ${time} IS NOT NULL THEN 'infinite' END`;

/**
 * The columns, of `keys k`, together with `tenant_id`, `key_id`, `name`, `key_state` and
 * `key_revision`. The versions are one text: of 5,000 it takes 4 ms, as rows or arrays several
 * times that.
 */
export const STATE_COLUMNS = `k.primary_version, k.state_seal_key_id, k.state_seal,
    ${microseconds('k.destroy_at')} AS destroy_microseconds,
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
    sealKeyId: row.state_seal_key_id,
    seal: row.state_seal,
  };
}

function versionsOf(text: string | null): VersionStateRecord[] {
  if (text === null) return [];
  return text.split(',').map((part) => {
    const [version, state, time = null] = part.split(' ');
    return { version: Number(version), state: state as LifecycleState, destroyAt: timeOf(time) };
  });
}

function timeOf(text: string | null): bigint | null {
  if (text === null) return null;
  return text === 'infinite' ? NO_TIME : BigInt(text);
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
