/**
 * Which alerts are not delivered, as one row with the seal of it.
 *
 * Invariant: a list is written only with its seal, by the seal key that is current and stays so
 * until the transaction ends. Nothing that is read here has been verified.
 */
import type { SealKeyId } from '../../ids.ts';
import type { Query, Tx } from '../core/transaction.ts';
import { onlyRowSeal } from '../hsm-token/only-row-seal.ts';

/** The list, as its row has it. */
export interface SilencesRecord {
  /** Counts the changes; 0 for one that was never changed. */
  readonly revision: bigint;
  /** In JSON. */
  readonly content: string;
  /** Both null where it is not sealed. */
  readonly sealKeyId: SealKeyId | null;
  readonly seal: Buffer | null;
}

interface Row {
  revision: string;
  content: string;
  seal_key_id: SealKeyId | null;
  seal: Buffer | null;
}

const SELECT = 'SELECT revision::text, content, seal_key_id, seal FROM alert_silences';

function recordOf(row: Row | undefined): SilencesRecord | undefined {
  if (row === undefined) return undefined;
  const { revision, content, seal_key_id: sealKeyId, seal } = row;
  return { revision: BigInt(revision), content, sealKeyId, seal };
}

/** Returns the list; undefined where the database has lost it. */
export async function findSilences(query: Query): Promise<SilencesRecord | undefined> {
  const [row] = await query<Row>(SELECT);
  return recordOf(row);
}

/** Keeps everyone else from changing the list, and returns it. */
export async function lockSilences(tx: Tx): Promise<SilencesRecord | undefined> {
  await tx.query('SELECT FROM alert_silences FOR UPDATE');
  // In a statement of its own: one that had to wait would read what was there before.
  const [row] = await tx.query<Row & Record<string, unknown>>(SELECT);
  return recordOf(row);
}

/** Writes the list that this transaction has locked, with its seal. */
export async function writeSilences(
  tx: Tx,
  { revision, content, sealKeyId, seal }: SilencesRecord,
): Promise<void> {
  await tx.query(
    'UPDATE alert_silences SET revision = $1, content = $2, seal_key_id = $3, seal = $4',
    [revision.toString(), content, sealKeyId, seal],
  );
}

/** How the seal of the list comes under another seal key. */
export const SILENCES_SEAL = onlyRowSeal('alert_silences');
