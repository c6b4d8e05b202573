/**
 * Whether a key stands as the database says: seals of keys' states, verified and made by the
 * agents.
 *
 * Invariants: what doesn't verify, or isn't sealed, or is older than what this replica has verified
 * of that key before, is refused (KEY_STATE_CORRUPT) with an alert, whoever asks; and what verifies
 * is what was read, all of one instant. Remembers revisions only, and not for ever: an older state
 * that was put back together with its seal while no replica remembers a newer one verifies. Where
 * seals are kept and when they are made is in `store/keys/key-seals.ts`.
 */
import type { Call, SealedContent } from '../../call.ts';
import { KeywardError } from '../../errors.ts';
import { encodeKeyState } from '../../hsm/key-state.ts';
import { RECORD } from '../../hsm/record-seal.ts';
import type { Agents } from '../../hsm/token-router.ts';
import type { KeyId, SealKeyId, TenantId } from '../../ids.ts';
import {
  changeDeadline,
  type Moment,
  NewestRevisions,
  type Reading,
  sealsMatch,
} from '../../sealed-rows.ts';
import type { Alerts } from '../../signals/alerts.ts';
import type { Deadline, Tx } from '../../store/core/transaction.ts';
import type { StateSealer } from '../../store/keys/key-seals.ts';
import type { KeyStateRecord } from '../../store/keys/key-states.ts';
import type { KeyVersionRecord } from '../../store/keys/key-versions.ts';
import type { KeyRecord } from '../../store/keys/keys.ts';
import type { Store } from '../../store/store.ts';
import { type SealKeySource, sealKeyFrom } from './seal-key-source.ts';

/** So many an agent seals at once: callers wait for at most 2 ms. */
const AT_ONCE = 100;
/** Of so many keys a revision is remembered: 10 MB. */
const REMEMBERED = 100_000;
/** How often a key is read anew that changed between two statements. */
const TRIES = 3;

export interface KeyStatesParts {
  readonly store: Store;
  readonly agents: Pick<Agents, 'call' | 'held'>;
  readonly sealKeys: SealKeySource;
  readonly alerts: Alerts;
}

/** Verifies and makes the seals of keys' states. */
export class KeyStates {
  readonly #parts: KeyStatesParts;
  readonly #newest = new NewestRevisions<KeyId>(REMEMBERED);

  constructor(parts: KeyStatesParts) {
    this.#parts = parts;
  }

  /**
   * To be asked for before states are read that are verified then: what is seen only later says
   * nothing against them.
   */
  now(): Moment {
    return this.#newest.now();
  }

  /**
   * Throws KEY_STATE_CORRUPT, naming the key, unless all of these, read after `readAfter`, verify;
   * and what agents throw.
   */
  async verify(states: readonly KeyStateRecord[], { readAfter, deadline }: Reading): Promise<void> {
    const rows = states.map((state) => this.#sealedRow(state));
    const matches = await sealsMatch(this.#parts, RECORD.keyState, rows, deadline);
    for (const [index, state] of states.entries()) {
      if (!matches[index]) throw this.#corrupt(state, 'its seal does not match');
      const problem = this.#newest.note(state.keyId, state.revision, readAfter);
      if (problem !== undefined) throw this.#corrupt(state, problem);
      this.#parts.alerts.clear('key-state-corrupt', subjectOf(state.keyId));
    }
  }

  /** The seals of these. Throws what agents throw. */
  async seal(
    states: readonly Omit<KeyStateRecord, 'sealKeyId' | 'seal'>[],
    sealKeyId: SealKeyId,
    deadline: number,
  ): Promise<Buffer[]> {
    const seals: Buffer[] = [];
    for (let start = 0; start < states.length; start += AT_ONCE) {
      const contents = states.slice(start, start + AT_ONCE).map(encodeKeyState);
      const request = { sealKeyId, kind: RECORD.keyState, contents };
      seals.push(...(await this.#parts.agents.call('sealRecords', request, deadline)).seals);
    }
    if (seals.length !== states.length) throw new Error('an agent answered for other key states');
    return seals.map((seal) => Buffer.from(seal));
  }

  /** For one change, which begins now. */
  sealer(call: Pick<Call, 'deadline'>): StateSealer {
    const readAfter = this.now();
    const soon = () => changeDeadline(call);
    return {
      verify: (state) => this.verify([state], { readAfter, deadline: soon() }),
      seal: async (state, sealKeyId) => {
        const [seal] = await this.seal([state], sealKeyId, soon());
        if (seal === undefined) throw new Error('an agent sealed nothing');
        return seal;
      },
      sealKey: sealKeyFrom(this.#parts.sealKeys, soon),
    };
  }

  #sealedRow(state: KeyStateRecord): SealedContent {
    const { sealKeyId, seal } = state;
    if (sealKeyId === null || seal === null) throw this.#corrupt(state, 'it is not sealed');
    try {
      return { content: encodeKeyState(state), sealKeyId, seal };
    } catch (error) {
      if (error instanceof RangeError) throw this.#corrupt(state, error.message);
      throw error;
    }
  }

  #corrupt({ tenantId, keyId, name }: KeyStateRecord, why: string): KeywardError {
    const detail = `key ${JSON.stringify(name)}, ${keyId}, of tenant ${tenantId}: ${why}`;
    this.#parts.alerts.raise('key-state-corrupt', subjectOf(keyId), { detail });
    return new KeywardError('KEY_STATE_CORRUPT', {
      metadata: { key: name },
      cause: new Error(detail),
    });
  }
}

/** What alerts about a key’s state are about. */
function subjectOf(keyId: KeyId): string {
  return `key ${keyId}`;
}

/** A key, and versions of it that were read beside it. */
export interface Standing {
  readonly key: KeyRecord;
  readonly versions?: readonly KeyVersionRecord[];
}

/**
 * Reads of a tenant what is verified before it is returned: how the key stands, and that its
 * versions stand as its seal says. Throws what `read` does, KEY_STATE_CORRUPT, HSM_UNAVAILABLE, and
 * CONFLICT where others keep changing it meanwhile.
 */
export async function readVerified<T extends Standing>(
  { store, states }: { readonly store: Store; readonly states: KeyStates },
  { deadline }: Deadline,
  tenantId: TenantId,
  read: (tx: Tx) => Promise<T>,
): Promise<T> {
  for (let attempt = 1; attempt <= TRIES; attempt++) {
    const readAfter = states.now();
    const found = await store.read({ deadline }, tenantId, read);
    const { sealed } = found.key;
    await states.verify([sealed], { readAfter, deadline });
    if (found.versions?.every((row) => standsAs(sealed, row.version, row)) ?? true) return found;
  }
  throw new KeywardError('CONFLICT');
}

/**
 * Whether a version's row says the same of it as the key's state, which is of another instant
 * perhaps. Neither: it isn't there.
 */
export function standsAs(
  { versions }: KeyStateRecord,
  number: number,
  row: Pick<KeyVersionRecord, 'state' | 'destroyAt'> | undefined,
): boolean {
  const sealed = versions.find(({ version }) => version === number);
  if (sealed === undefined || row === undefined) return sealed === row;
  return (
    sealed.state === row.state &&
    toMilliseconds(sealed.destroyAt) === (row.destroyAt && Number(row.destroyAt))
  );
}

function toMilliseconds(microseconds: bigint | null): number | null {
  return microseconds === null ? null : Math.floor(Number(microseconds) / 1000);
}
