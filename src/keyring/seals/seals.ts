/**
 * The service's part in re-sealing: when the reconciler finds records under a seal key that was
 * replaced, some of the time.
 *
 * Works no more than its share, as re-wrapping does, and not while maintenance is paused. How a
 * record is re-sealed is in `reseal.ts`.
 */
import { monotonicNow } from '../../call.ts';
import type { Agents } from '../../hsm/token-router.ts';
import type { SealKeyId } from '../../ids.ts';
import type { Store } from '../../store/store.ts';
import { type RewrapSettings, step, Throttle } from '../pace.ts';
import { type AllSealedRecords, type ResealOutcome, resealAll } from './reseal.ts';

/** What {@link Seals} stands on. */
export interface SealsParts {
  readonly store: Store;
  readonly agents: Agents;
  /** The token's objects, as this replica knows them. */
  readonly tokenObjects: { currentSealKey(): SealKeyId; refresh(): Promise<void> };
  readonly rewrap: Pick<RewrapSettings, 'share'>;
  /** What is sealed again when the seal key was replaced. */
  readonly sealedRecords: AllSealedRecords;
}

/** Seals records of replaced seal keys again, within its share of the time. */
export class Seals {
  readonly #parts: SealsParts;

  constructor(parts: SealsParts) {
    this.#parts = parts;
  }

  /**
   * For `milliseconds` at the most; `onCorrupt` hears of what stays under the old key. Throws what
   * store and agents throw.
   */
  async work(
    milliseconds: number,
    signal: AbortSignal,
    onCorrupt: (resource: string) => void,
  ): Promise<ResealOutcome> {
    const { store, agents, rewrap, sealedRecords, tokenObjects } = this.#parts;
    const until = monotonicNow() + milliseconds;
    const throttle = new Throttle(rewrap.share, signal);
    return resealAll(sealedRecords, {
      transact: (work) =>
        store.reconcile(step(), (tx) => work((text, values) => tx.query(text, values))),
      verify: (request) => agents.call('verifyRecords', request, step().deadline),
      seal: (request) => agents.call('resealRecords', request, step().deadline),
      isCurrentSealKey: async (sealKeyId) => {
        if (sealKeyId !== tokenObjects.currentSealKey()) await tokenObjects.refresh();
        return sealKeyId === tokenObjects.currentSealKey();
      },
      mayGoOn: async () => {
        await throttle.pause();
        return !signal.aborted && monotonicNow() < until;
      },
      onCorrupt,
      evenIfPaused: false,
    });
  }
}
