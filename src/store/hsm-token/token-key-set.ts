/**
 * The seal of all token keys and tokens: the set read in one statement, and the one door through
 * which it changes.
 *
 * Invariants: a row of `tokens` or `token_objects` is changed while the set is locked, after its
 * seal was verified; what is sealed then is what the transaction meant to make of it, not what the
 * rows say afterwards, so that no change of another's comes under the seal. Nothing that is read
 * here has been verified. Who verifies and seals is given: this knows no HSM.
 */
import type { SealKeyId } from '../../ids.ts';
import type { Tx } from '../core/transaction.ts';
import {
  type SealedToken,
  type SealedTokenObject,
  TokenKeyDraft,
  type TokenKeysTx,
} from './token-key-draft.ts';
import {
  fromTokenObjectRow,
  SELECT_TOKEN_OBJECTS,
  type TokenObjectRecord,
  type TokenObjectRow,
} from './token-objects.ts';
import { SELECT_TOKENS, type TokenRecord } from './tokens.ts';

/** What is under the seal. */
export interface TokenKeySet {
  /** Counts the changes. */
  readonly revision: bigint;
  readonly tokens: readonly SealedToken[];
  readonly objects: readonly SealedTokenObject[];
}

/** The set as its rows say, and its seal. */
export interface TokenKeySetRecord extends TokenKeySet {
  readonly tokens: readonly TokenRecord[];
  /** Oldest first. */
  readonly objects: readonly TokenObjectRecord[];
  /** Both null where it isn't sealed. */
  readonly sealKeyId: SealKeyId | null;
  readonly seal: Buffer | null;
}

/** Verifies and seals for one change. Each throws what it fails of. */
export interface TokenKeySealer {
  /** Throws unless it is what its seal is of; undefined: there is no row for the seal. */
  verify(set: TokenKeySetRecord | undefined): Promise<void>;
  seal(set: TokenKeySet, sealKeyId: SealKeyId): Promise<Buffer>;
}

interface SetRow {
  revision: string;
  seal_key_id: SealKeyId | null;
  seal: Buffer | null;
  tokens: TokenRecord[] | null;
  objects: TokenObjectRow[] | null;
}

const SELECT_SET = `SELECT s.revision, s.seal_key_id, s.seal,
    (SELECT json_agg(p) FROM (${SELECT_TOKENS}) p) AS tokens,
    (SELECT json_agg(o) FROM (${SELECT_TOKEN_OBJECTS}) o) AS objects
  FROM token_key_seals s`;

/** The set, of one instant; undefined where the row for its seal is missing. */
export async function findTokenKeySet(tx: Tx): Promise<TokenKeySetRecord | undefined> {
  const [row] = await tx.query<SetRow & Record<string, unknown>>(SELECT_SET);
  if (row === undefined) return undefined;
  const at = (time: Date | null) => time && new Date(time);
  return {
    revision: BigInt(row.revision),
    tokens: (row.tokens ?? []).map((token) => ({
      ...token,
      activatedAt: at(token.activatedAt),
      retiredAt: at(token.retiredAt),
    })),
    objects: (row.objects ?? []).map(fromTokenObjectRow),
    sealKeyId: row.seal_key_id,
    seal: row.seal,
  };
}

/**
 * Locks the set, and changes it. Throws what `sealer` and `apply` throw; nothing may be changed
 * then.
 */
export async function changeTokenKeys<T, In extends Tx>(
  tx: In,
  sealer: TokenKeySealer,
  apply: (tx: In & TokenKeysTx) => Promise<T>,
): Promise<T> {
  const before = await lockTokenKeySet(tx);
  await sealer.verify(before);
  if (before === undefined) throw new Error(LOST);
  const keys = new TokenKeyDraft(before);
  const result = await apply({ ...tx, keys });
  await writeSeal(tx, sealer, before.revision, keys);
  return result;
}

/**
 * Locks the set, and seals it as it is, for whoever vouches for it. In a transaction of the
 * owner's. Returns the current seal key.
 */
export async function vouchForTokenKeys(
  tx: Tx,
  sealer: Pick<TokenKeySealer, 'seal'>,
): Promise<SealKeyId> {
  const before = await lockTokenKeySet(tx);
  if (before === undefined) throw new Error(LOST);
  const draft = new TokenKeyDraft(before);
  await writeSeal(tx, sealer, before.revision, draft);
  return draft.sealKeyId;
}

const LOST = 'cannot change token keys: the database has lost the row for their seal';

async function lockTokenKeySet(tx: Tx): Promise<TokenKeySetRecord | undefined> {
  // In a statement of its own: one that had to wait would read what was there before.
  await tx.query('SELECT 1 FROM token_key_seals FOR UPDATE');
  return findTokenKeySet(tx);
}

async function writeSeal(
  tx: Tx,
  { seal }: Pick<TokenKeySealer, 'seal'>,
  before: bigint,
  { tokens, objects, sealKeyId }: TokenKeyDraft,
): Promise<void> {
  const revision = before + 1n;
  await tx.query('UPDATE token_key_seals SET revision = $1, seal_key_id = $2, seal = $3', [
    revision.toString(),
    sealKeyId,
    await seal({ revision, tokens, objects }, sealKeyId),
  ]);
}
