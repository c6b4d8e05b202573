/**
 * The switch for incidents, as its row, with the seal of that.
 *
 * Invariant: a row is written only with its seal, by the seal key that is current and stays so
 * until the transaction ends. Nothing that is read here has been verified. What a seal is computed
 * over isn't known here.
 */
import type { SealKeyId } from '../../ids.ts';
import type { Query, Tx } from '../core/transaction.ts';
import { onlyRowSeal } from '../hsm-token/only-row-seal.ts';

/** The switch for incidents. */
export interface MaintenanceRecord {
  readonly paused: boolean;
  readonly changedAt: Date | null;
  readonly caller: string;
}

/** All of its row. */
export interface SealedMaintenance extends MaintenanceRecord {
  /** Counts the changes. */
  readonly revision: bigint;
  /** `changedAt` as Postgres has it, in microseconds since 1970. */
  readonly changedMicroseconds: bigint | null;
  /** Both null where it isn't sealed. */
  readonly sealKeyId: SealKeyId | null;
  readonly seal: Buffer | null;
}

interface Row {
  paused: boolean;
  changed_at: Date | null;
  caller: string;
  revision: string;
  microseconds: string | null;
  seal_key_id: SealKeyId | null;
  seal: Buffer | null;
}

const SELECT = `SELECT paused, changed_at, caller, revision, seal_key_id, seal,
    CASE WHEN isfinite(changed_at) THEN trunc(extract(epoch FROM changed_at) * 1000000)::text END AS microseconds
  FROM maintenance`;

/** The switch; undefined where the database has lost it. */
export async function findMaintenance(tx: Tx): Promise<SealedMaintenance | undefined> {
  const [row] = await tx.query<Row & Record<string, unknown>>(SELECT);
  return (
    row && {
      paused: row.paused,
      changedAt: row.changed_at,
      caller: row.caller,
      revision: BigInt(row.revision),
      changedMicroseconds: row.microseconds === null ? null : BigInt(row.microseconds),
      sealKeyId: row.seal_key_id,
      seal: row.seal,
    }
  );
}

/** Keeps everyone else from setting the switch; returns it, and the time. */
export async function lockMaintenance(
  tx: Tx,
): Promise<{ readonly before: SealedMaintenance | undefined; readonly now: Date }> {
  // In a statement of its own: one that had to wait would read what was there before.
  const [row] = await tx.query<{ now: Date }>(
    `SELECT date_trunc('milliseconds', clock_timestamp()) AS now FROM maintenance FOR UPDATE`,
  );
  return { before: await findMaintenance(tx), now: row?.now ?? new Date(Number.NaN) };
}

/** Writes the switch that this transaction has locked, with its seal. */
export async function writeMaintenance(
  tx: Tx,
  { paused, changedAt, caller, revision, sealKeyId, seal }: SealedMaintenance,
): Promise<void> {
  await tx.query(
    `UPDATE maintenance SET paused = $1, changed_at = $2, caller = $3, revision = $4, seal_key_id = $5, seal = $6`,
    [paused, changedAt?.toISOString() ?? null, caller, revision.toString(), sealKeyId, seal],
  );
}

/** How the seal of the switch comes under another seal key. */
export const MAINTENANCE_SEAL = onlyRowSeal('maintenance');

/** Writes the first seal of the switch, for whoever vouches for it. By the owner. */
export async function writeFirstMaintenanceSeal(
  query: Query,
  sealKeyId: SealKeyId,
  seal: Buffer,
): Promise<void> {
  await query('UPDATE maintenance SET seal_key_id = $1, seal = $2 WHERE seal IS NULL', [
    sealKeyId,
    seal,
  ]);
}
