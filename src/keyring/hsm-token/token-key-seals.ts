/**
 * Whether token keys and tokens stand as the database says: their one seal, verified and made by
 * the agents.
 *
 * Invariants: a set that doesn't verify, isn't sealed, or is older than what this replica has
 * verified before, is refused (TOKEN_KEYS_CORRUPT) with an alert, whoever asks; and what verifies
 * is what was read, all of one instant. That a seal key seals which seal key is current is no
 * circle: agents hold only what is in the token under its label, which nobody but the service can
 * make, and the revision decides between two that are. Where the seal is kept is in
 * `store/hsm-token/token-key-set.ts`.
 */
import type { Call } from '../../call.ts';
import { KeywardError } from '../../errors.ts';
import { RECORD } from '../../hsm/record-seal.ts';
import { encodeTokenKeySet } from '../../hsm/token-key-set.ts';
import type { Agents } from '../../hsm/token-router.ts';
import type { SealKeyId } from '../../ids.ts';
import { changeDeadline, type Moment, NewestRevisions, type Reading } from '../../sealed-rows.ts';
import type { Alerts } from '../../signals/alerts.ts';
import type {
  TokenKeySealer,
  TokenKeySet,
  TokenKeySetRecord,
} from '../../store/hsm-token/token-key-set.ts';

/** What alerts about them are about. */
const TOKEN_KEYS = 'token keys';

export interface TokenKeySealsParts {
  readonly agents: Pick<Agents, 'call' | 'held'>;
  readonly alerts: Alerts;
}

/** Verifies and makes the seals of token keys. */
export class TokenKeySeals {
  readonly #parts: TokenKeySealsParts;
  readonly #newest = new NewestRevisions<typeof TOKEN_KEYS>(1);

  constructor(parts: TokenKeySealsParts) {
    this.#parts = parts;
  }

  /** To be asked for before the set is read: what is seen only later says nothing against it. */
  now(): Moment {
    return this.#newest.now();
  }

  /**
   * Returns the set, read after `readAfter`, if it verifies. Throws TOKEN_KEYS_CORRUPT,
   * TOKEN_KEY_NOT_READY where no agent here has its seal key, which is recorded, and `wasLookedFor`
   * doesn't say that they have looked, and what agents throw.
   */
  async verify(
    set: TokenKeySetRecord | undefined,
    { readAfter, deadline, wasLookedFor = false }: Reading & { readonly wasLookedFor?: boolean },
  ): Promise<TokenKeySetRecord> {
    if (set === undefined) throw this.#corrupt('the row of their seal is missing');
    const { sealKeyId, seal } = set;
    if (sealKeyId === null || seal === null) throw this.#corrupt('they are not sealed');
    const { agents } = this.#parts;
    const request = {
      sealKeyId,
      kind: RECORD.tokenKeySet,
      items: [{ content: this.#encode(set), seal }],
    };
    const { verified } = await agents.call('verifyRecords', request, deadline);
    if (verified[0] !== 1) {
      const isHeld = agents.held.some((id) => id === `${sealKeyId}`);
      const isRecorded = set.objects.some(
        ({ objectId, role }) => role === 'seal' && `${objectId}` === `${sealKeyId}`,
      );
      if (!isHeld && isRecorded && !wasLookedFor) throw new KeywardError('TOKEN_KEY_NOT_READY');
      throw this.#corrupt('their seal does not match');
    }
    const problem = this.#newest.note(TOKEN_KEYS, set.revision, readAfter);
    if (problem !== undefined) throw this.#corrupt(problem);
    this.#parts.alerts.clear('token-key-corrupt', TOKEN_KEYS);
    return set;
  }

  /** The seal of the set. Throws what agents throw. */
  async seal(set: TokenKeySet, sealKeyId: SealKeyId, deadline: number): Promise<Buffer> {
    const request = { sealKeyId, kind: RECORD.tokenKeySet, contents: [encodeTokenKeySet(set)] };
    const { seals } = await this.#parts.agents.call('sealRecords', request, deadline);
    if (seals[0] === undefined) throw new Error('an agent sealed nothing');
    return Buffer.from(seals[0]);
  }

  /** For one change, which begins now. */
  sealer(call: Pick<Call, 'deadline'>): TokenKeySealer {
    const readAfter = this.now();
    const soon = () => changeDeadline(call);
    return {
      verify: async (set) => {
        await this.verify(set, { readAfter, deadline: soon() });
      },
      seal: (set, sealKeyId) => this.seal(set, sealKeyId, soon()),
    };
  }

  #encode(set: TokenKeySet): Buffer {
    try {
      return encodeTokenKeySet(set);
    } catch (error) {
      if (error instanceof RangeError) throw this.#corrupt(error.message);
      throw error;
    }
  }

  #corrupt(why: string): KeywardError {
    const detail = `token keys and tokens: ${why}`;
    this.#parts.alerts.raise('token-key-corrupt', TOKEN_KEYS, { detail });
    return new KeywardError('TOKEN_KEYS_CORRUPT', { cause: new Error(detail) });
  }
}
