/**
 * Tokens as a whole, as rows: the one that serves, the one to move to, those that served before.
 *
 * Invariant: one is CURRENT at every time, at most one NEXT. Rows are the owner's to write, by
 * `token init` and `token migrate`; every replica reads all. What a profile says is the HSM side's
 * matter; how one follows another is `token-migration.ts`.
 */
import type { TokenId } from '../../ids.ts';
import type { Deadline, Query } from '../core/transaction.ts';
import type { Store } from '../store.ts';

/** The migration that makes the column says what each means. */
export type TokenState = 'CURRENT' | 'NEXT' | 'FORMER';

export interface TokenRecord {
  readonly tokenId: TokenId;
  readonly state: TokenState;
  /** Null until a command of this release has opened it. */
  readonly label: string | null;
  readonly serialNumber: string | null;
  /** Null before `token init`. */
  readonly profile: unknown;
  /** By the database's clock. */
  readonly activatedAt: Date | null;
  readonly retiredAt: Date | null;
}

/** All of them, oldest first, as {@link TokenRecord}s. */
export const SELECT_TOKENS = `SELECT token_id AS "tokenId", state, label, serial_number AS "serialNumber", profile,
    activated_at AS "activatedAt", retired_at AS "retiredAt"
  FROM tokens ORDER BY created_at, token_id`;

/** All of them, oldest first. */
export function selectTokens(query: Query): Promise<TokenRecord[]> {
  return query<TokenRecord>(SELECT_TOKENS);
}

/** All of them, oldest first. */
export function listTokens(store: Store, call: Deadline): Promise<TokenRecord[]> {
  return selectTokens((text, values) => store.query(call, text, values));
}

/** How far a move is. */
export interface MoveProgress {
  /** Destroyed ones aside. */
  readonly versions: number;
  /** For the next token, up to date or not. */
  readonly copied: number;
  /** Keys of former tokens that aren't destroyed. */
  readonly leftBehind: number;
}

/** Every key version is counted. */
export function countMoved(store: Store, call: Deadline): Promise<MoveProgress> {
  return store.reconcile(call, async (tx) => {
    const [row] = await tx.query<{ [Name in keyof MoveProgress]: number }>(
      `SELECT (SELECT count(*) FROM key_versions WHERE state <> 'DESTROYED')::float8 AS versions,
         (SELECT count(*) FROM moved_key_versions)::float8 AS copied,
         (SELECT count(*) FROM token_objects JOIN tokens p USING (token_id)
          WHERE p.state = 'FORMER' AND token_objects.state <> 'DESTROYED')::float8 AS "leftBehind"`,
    );
    if (row === undefined) throw new Error('a count returned no row');
    return row;
  });
}
