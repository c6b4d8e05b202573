/**
 * Which key is current for seals, as changes ask for it: what this replica knows, and where that is
 * not current any more, what is read and verified in the change's own transaction.
 */
import { KeywardError } from '../../errors.ts';
import type { SealKeyId } from '../../ids.ts';
import type { Tx } from '../../store/core/transaction.ts';

/** Knows which key is current for seals. */
export interface SealKeySource {
  /** Throws TOKEN_KEY_NOT_READY, TOKEN_KEYS_CORRUPT. */
  currentSealKey(): SealKeyId;
  /** Read and verified anew, in the transaction. Throws as {@link SealKeySource.currentSealKey}. */
  readCurrentSealKey(tx: Tx, deadline: number): Promise<SealKeyId>;
}

/** Why no seal key is known. */
const UNKNOWN = ['TOKEN_KEY_NOT_READY', 'TOKEN_KEYS_CORRUPT'] as const;

/** Returns what a sealer asks for its key, each time until the deadline that `soon` gives. */
export function sealKeyFrom(
  source: SealKeySource,
  soon: () => number,
): (tx?: Tx) => Promise<SealKeyId | undefined> {
  return async (tx) =>
    tx === undefined ? knownSealKey(source) : source.readCurrentSealKey(tx, soon());
}

function knownSealKey(source: SealKeySource): SealKeyId | undefined {
  try {
    return source.currentSealKey();
  } catch (error) {
    // Read again, it may verify by now, or be there.
    const isUnknown = UNKNOWN.some(
      (reason) => error instanceof KeywardError && error.reason === reason,
    );
    if (isUnknown) return undefined;
    throw error;
  }
}
