/**
 * Rows under seals of whatever kind: which of them are as they were sealed, and none older than
 * what was verified before.
 *
 * Invariants:
 * - a seal key that is in use and that no agent here has says nothing against a row: that is
 *   TOKEN_KEY_NOT_READY, and never a row that is corrupt;
 * - a row counts as older only by what was verified before it was read. Remembers revisions alone,
 *   and not for ever: an older row that was put back together with its seal while no replica
 *   remembers a newer one verifies.
 * Raises no alert: what a row is, and what it is called, its own module knows.
 */
import { type Call, monotonicNow, type SealedContent } from './call.ts';
import { KeywardError } from './errors.ts';
import type { RecordKind } from './hsm/record-seal.ts';
import type { Agents } from './hsm/token-router.ts';
import type { SealKeyId } from './ids.ts';
import { Lru } from './lru.ts';
import { isSealKeyInUse } from './store/hsm-token/token-objects.ts';
import type { Store } from './store/store.ts';

/** An agent verifies so many at a time: callers wait for at most 2 ms. */
const AT_ONCE = 100;
/** A change waits no longer for an agent while it holds its row and a connection. */
const CHANGE_MS = 5_000;

/** What seals are verified with. */
export interface SealCheckParts {
  readonly store: Pick<Store, 'query'>;
  readonly agents: Pick<Agents, 'call' | 'held'>;
}

/**
 * Returns, of each row, whether its seal is of its content. Throws TOKEN_KEY_NOT_READY, and what
 * agents throw.
 */
export async function sealsMatch(
  parts: SealCheckParts,
  kind: RecordKind,
  rows: readonly SealedContent[],
  deadline: number,
): Promise<boolean[]> {
  const matches = rows.map(() => false);
  const byKey = Map.groupBy(rows.entries(), ([, { sealKeyId }]) => sealKeyId);
  for (const [sealKeyId, own] of byKey)
    for (let start = 0; start < own.length; start += AT_ONCE) {
      const some = own.slice(start, start + AT_ONCE);
      const items = some.map(([, { content, seal }]) => ({ content, seal }));
      const request = { sealKeyId, kind, items };
      const { verified } = await parts.agents.call('verifyRecords', request, deadline);
      if (verified.some((each) => each !== 1)) await requireHeld(parts, sealKeyId, deadline);
      for (const [place, [index]] of some.entries()) matches[index] = verified[place] === 1;
    }
  return matches;
}

/** As {@link sealsMatch}, of one. */
export async function sealMatches(
  parts: SealCheckParts,
  kind: RecordKind,
  row: SealedContent,
  deadline: number,
): Promise<boolean> {
  const [matches] = await sealsMatch(parts, kind, [row], deadline);
  return matches === true;
}

async function requireHeld(
  { store, agents }: SealCheckParts,
  sealKeyId: SealKeyId,
  deadline: number,
): Promise<void> {
  if (agents.held.some((id) => id === `${sealKeyId}`)) return;
  if (await isSealKeyInUse(store, { deadline }, sealKeyId))
    throw new KeywardError('TOKEN_KEY_NOT_READY');
}

/** Returns until when a change of the call may wait for an agent. */
export function changeDeadline({ deadline }: Pick<Call, 'deadline'>): number {
  return Math.min(deadline, monotonicNow() + CHANGE_MS);
}

/** A moment before something is read. */
export type Moment = number & { readonly kind: 'moment' };

/** When what is verified was read, and how long that may take. */
export interface Reading {
  readonly readAfter: Moment;
  readonly deadline: number;
}

/** Remembers the newest revision of each thing whose row has verified. */
export class NewestRevisions<Id> {
  readonly #seen: Lru<Id, { readonly revision: bigint; readonly at: Moment }>;
  #moment = 0;

  /** Of so many things. */
  constructor(remembered: number) {
    this.#seen = new Lru(remembered);
  }

  /**
   * To be asked for before rows are read that are verified then: what is seen only later says
   * nothing against them.
   */
  now(): Moment {
    this.#moment += 1;
    return this.#moment as Moment;
  }

  /**
   * Notes the revision of a row that has verified and was read after that moment. Returns why it
   * does not count, where a newer one had been noted by then.
   */
  note(id: Id, revision: bigint, readAfter: Moment): string | undefined {
    const seen = this.#seen.get(id);
    if (seen !== undefined && seen.at < readAfter && revision < seen.revision)
      return `its revision is ${revision}, and it was ${seen.revision} before`;
    if (seen === undefined || revision > seen.revision)
      this.#seen.set(id, { revision, at: this.now() });
    return undefined;
  }
}
