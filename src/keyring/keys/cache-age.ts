/**
 * The age of what a replica remembers: revisions of all of it are asked for again, some at a time,
 * so that a change that the feed of changes doesn't tell of holds here all the same, a little
 * later.
 *
 * Invariants: everything remembered was compared with the database, or read, within the age; what
 * the database has in another revision, or not at all, or can't be asked for, is forgotten at once,
 * as if the feed had told of it, and what is read next is verified; what has its revision still
 * is not read again, but for a few each second, so that rows that somebody changed otherwise are
 * named. That a revision rose and the feed doesn't tell of it within its bound is an
 * alert.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { monotonicNow } from '../../call.ts';
import { KeywardError } from '../../errors.ts';
import { Lru } from '../../lru.ts';
import type { Alerts } from '../../signals/alerts.ts';
import type { Change, ChangeKind } from '../../store/changes.ts';
import { findRevisions, type Remembered, subjectOf } from '../../store/revisions.ts';
import type { Store } from '../../store/store.ts';

/** A round takes less than half of the age: what is loaded later waits for the next one. */
const ROUND = 0.45;
/** In so many steps, so that no one statement asks for much. */
const STEPS = 30;
const SHORTEST_STEP_MS = 50;
const READ_MS = 2_000;
/** In one statement at most. */
const AT_ONCE = 2_000;
/** Within this the feed tells of everything, or the replica answers nothing. */
const TOLD_MS = 3_000;
/** So many are read and verified again in each step, though they have their revision still. */
const VERIFIED_AGAIN = 10;
const CORRUPT: readonly string[] = [
  'TENANT_CORRUPT',
  'POLICY_CORRUPT',
  'KEY_STATE_CORRUPT',
  'CANARIES_CORRUPT',
  'APPROVAL_RULES_CORRUPT',
];
/** Of so many subjects it is known when the feed told of them. */
const TOLD = 100_000;

/** A cache of things that have revisions. */
export interface AgingCache {
  /** What is loaded, at this moment. */
  remembered(): Iterable<Remembered>;
  /** Whether it still has this very entry. */
  keeps(remembered: Remembered): boolean;
  /** Reads it again, after it was forgotten, so that what doesn't verify is named. */
  reload(remembered: Remembered): Promise<unknown>;
  /** Reads it beside what is kept. Throws what a load throws, which names what doesn't verify. */
  verifyAgain(remembered: Remembered): Promise<unknown>;
}

export interface CacheAgeParts {
  readonly store: Pick<Store, 'reconcile'>;
  readonly caches: readonly AgingCache[];
  /** What the feed's listener does with a change. */
  readonly onChange: (change: Change) => void;
  /** Returns whether this replica receives changes. */
  readonly isFresh: () => boolean;
  readonly maxAgeMs: number;
  readonly log: { warn(fields: object, message: string): void };
  readonly alerts: Alerts;
}

interface Owned {
  readonly cache: AgingCache;
  readonly remembered: Remembered;
}

/** Compares what a replica remembers with the database, round after round. */
export class CacheAge {
  readonly #parts: CacheAgeParts;
  readonly #stopping = new AbortController();
  /** When the feed told of a subject last. */
  readonly #told = new Lru<string, number>(TOLD);
  /** When an entry was verified last, as far as is known. */
  readonly #verified = new WeakMap<object, number>();
  /** When it told of everything at once. */
  #allTold = Number.NEGATIVE_INFINITY;
  #running: Promise<void> | undefined;

  constructor(parts: CacheAgeParts) {
    this.#parts = parts;
  }

  /** The feed has told of a change. */
  told({ kind, subjectId }: Change): void {
    if (kind === 'versions' || kind === 'shredded') this.toldAll();
    const of = kind === 'destroyed' ? 'key' : kind;
    this.#told.set(`${of}/${subjectId}`, monotonicNow());
  }

  /** The feed has said that anything may have changed. */
  toldAll(): void {
    this.#allTold = monotonicNow();
  }

  start(): void {
    this.#running ??= this.#run();
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#running;
  }

  async #run(): Promise<void> {
    const { signal } = this.#stopping;
    const roundMs = this.#parts.maxAgeMs * ROUND;
    const stepMs = Math.max(SHORTEST_STEP_MS, roundMs / STEPS);
    const steps = Math.max(1, Math.floor(roundMs / stepMs));
    while (!signal.aborted) {
      const all = this.#parts.caches.flatMap((cache) =>
        Array.from(cache.remembered(), (remembered): Owned => ({ cache, remembered })),
      );
      const size = Math.ceil(all.length / steps);
      for (let step = 0; step < steps && !signal.aborted; step++) {
        const began = monotonicNow();
        const some = all.slice(step * size, (step + 1) * size);
        for (let start = 0; start < some.length; start += AT_ONCE)
          await this.#compare(some.slice(start, start + AT_ONCE));
        await this.#verifySome(some);
        const left = Math.max(0, began + stepMs - monotonicNow());
        await delay(left, undefined, { signal }).catch(() => {});
      }
    }
  }

  /** Never rejects. */
  async #compare(all: readonly Owned[]): Promise<void> {
    const { store, log } = this.#parts;
    const some = all.filter(({ cache, remembered }) => cache.keeps(remembered));
    if (some.length === 0) return;
    const asked = some.map(({ remembered }) => remembered);
    const deadline = monotonicNow() + Math.min(READ_MS, this.#parts.maxAgeMs);
    const revisions = await findRevisions(store, { deadline }, asked).catch((err: unknown) => {
      log.warn({ err }, 'cannot ask for revisions; what was remembered is read again when used');
      return undefined;
    });
    for (const { cache, remembered } of some) {
      // The feed has told of it meanwhile, or it fell out.
      if (!cache.keeps(remembered)) continue;
      if (revisions === undefined) this.#forget(remembered, remembered.kind);
      else this.#judge(cache, remembered, revisions.get(subjectOf(remembered)));
    }
  }

  /** A few of those that were verified an age ago. Never rejects. */
  async #verifySome(some: readonly Owned[]): Promise<void> {
    const now = monotonicNow();
    const old = some.filter(({ remembered: { entry } }) => {
      // What is met first was loaded since the last round.
      if (!this.#verified.has(entry)) this.#verified.set(entry, now);
      return now - (this.#verified.get(entry) ?? now) >= this.#parts.maxAgeMs;
    });
    const again = old.slice(0, VERIFIED_AGAIN).map(async ({ cache, remembered }) => {
      if (!cache.keeps(remembered)) return;
      this.#verified.set(remembered.entry, now);
      await cache.verifyAgain(remembered).catch((error: unknown) => {
        const isCorrupt = error instanceof KeywardError && CORRUPT.includes(error.reason);
        if (isCorrupt) this.#forget(remembered, remembered.kind);
      });
    });
    await Promise.all(again);
  }

  #judge(cache: AgingCache, remembered: Remembered, revision: bigint | undefined): void {
    if (revision === remembered.revision) return;
    const foundAt = monotonicNow();
    const { kind, tenantId, subjectId } = remembered;
    // Perhaps it was destroyed, of which agents must hear.
    this.#forget(remembered, kind === 'key' ? 'destroyed' : kind);
    const fields = { kind, tenantId, subjectId, remembered: String(remembered.revision) };
    if (revision === undefined)
      this.#parts.alerts.raise('row-missing', `${kind} ${subjectId}`, fields);
    else if (revision > remembered.revision)
      setTimeout(() => this.#requireTold(remembered, foundAt, revision), TOLD_MS).unref();
    // What is older than was remembered is refused, and named, when it is read.
    cache.reload(remembered).catch((error: unknown) => {
      const isGone = error instanceof KeywardError && error.reason === 'RESOURCE_NOT_FOUND';
      if (kind === 'tenant' && isGone) this.#forget(remembered, 'shredded');
    });
  }

  #requireTold(remembered: Remembered, foundAt: number, revision: bigint): void {
    const since = Math.max(this.#allTold, this.#told.get(subjectOf(remembered)) ?? -Infinity);
    // What the feed had told of before, was read since; and where it fails, it tells of all later.
    if (since >= foundAt || !this.#parts.isFresh() || this.#stopping.signal.aborted) return;
    const { kind, tenantId, subjectId } = remembered;
    const fields = { kind, tenantId, subjectId, remembered: String(remembered.revision) };
    this.#parts.alerts.raise('changes-missing', `${kind} ${subjectId}`, {
      ...fields,
      revision: String(revision),
    });
  }

  /** Does what the feed would have had done. */
  #forget({ tenantId, subjectId }: Remembered, kind: ChangeKind): void {
    this.#parts.onChange({ kind, tenantId, subjectId });
  }
}
