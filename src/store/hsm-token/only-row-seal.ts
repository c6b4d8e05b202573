/**
 * The seal of a table that has one row, in the columns `seal_key_id` and `seal`: whether a replaced
 * seal key still has it, and how it comes under the current one.
 *
 * What the seal is computed over is not known here.
 */
import type { SealKeyId } from '../../ids.ts';
import type { Query } from '../core/transaction.ts';
import { holdSealKeys } from './token-objects.ts';

/** A seal to be written in the place of one that was verified. */
export interface NewSeal {
  readonly before: { readonly seal: Buffer | null };
  readonly sealKeyId: SealKeyId;
  readonly seal: Buffer;
}

/** Brings the seal of such a table under the current seal key. */
export interface OnlyRowSeal {
  /** A condition in SQL: whether {@link OnlyRowSeal.findFormerKeys} finds any. */
  readonly isStale: string;
  /** Returns the seal keys that were replaced and have the row under them. */
  findFormerKeys(query: Query): Promise<SealKeyId[]>;
  /**
   * Writes a seal in the place of the one that was verified, where the row still has it. With the
   * rights of the reconciler or the owner. Returns false, having written none, if that may not be
   * now.
   */
  rewrite(
    query: Query,
    seals: readonly NewSeal[],
    options: { readonly evenIfPaused: boolean },
  ): Promise<boolean>;
}

/** Returns how the seal of that table is brought under the current seal key. */
export function onlyRowSeal(table: 'maintenance' | 'canary_seals' | 'alert_silences'): OnlyRowSeal {
  // Seal keys, as `o`, that were replaced and have the row under them.
  const former = `FROM token_objects o WHERE o.role = 'seal' AND NOT o.is_current AND o.state <> 'DESTROYED'
    AND EXISTS (SELECT FROM ${table} r WHERE r.seal_key_id = o.object_id)`;
  return {
    isStale: `EXISTS (SELECT ${former})`,
    findFormerKeys: async (query) => {
      const rows = await query<{ id: SealKeyId }>(`SELECT o.object_id AS id ${former}`);
      return rows.map(({ id }) => id);
    },
    rewrite: async (query, seals, { evenIfPaused }) => {
      if (!(await holdSealKeys(query, seals, evenIfPaused))) return false;
      for (const { before, sealKeyId, seal } of seals)
        await query(`UPDATE ${table} SET seal_key_id = $2, seal = $3 WHERE seal = $1`, [
          before.seal,
          sealKeyId,
          seal,
        ]);
      return true;
    },
  };
}
