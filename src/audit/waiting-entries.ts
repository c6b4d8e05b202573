/**
 * Notices that entries wait to become leaves and nobody makes leaves of them, whichever replica
 * should: its lease may be held by a process that does nothing, or be taken by none.
 *
 * By this process' own clock: the oldest row that waits is the same for too long. Each standstill
 * is reported once, and its end.
 */
import { monotonicNow } from '../call.ts';
import type { Alerts } from '../signals/alerts.ts';
import { findOldestRow } from '../store/audit/audit-inbox.ts';
import type { Store } from '../store/store.ts';

const LOOK_MS = 5_000;
const READ_MS = 5_000;
/** No step of the sequencer takes so long. */
export const WAITING_MS = 30_000;

interface WaitingLog {
  info(fields: object, message: string): void;
}

export interface WaitingEntriesParts {
  readonly store: Pick<Store, 'reconcile'>;
  readonly log: WaitingLog;
  readonly alerts: Alerts;
  /** This process' clock, in milliseconds; a test moves its own. */
  readonly now?: () => number;
}

/** Watches the oldest row of the inbox. */
export class WaitingEntries {
  readonly #parts: WaitingEntriesParts;
  readonly #now: () => number;
  /** The oldest row, and since when it has been that. */
  #oldest: { readonly groupNumber: string; readonly since: number } | undefined;
  #lookedAt = Number.NEGATIVE_INFINITY;
  #isReported = false;

  constructor(parts: WaitingEntriesParts) {
    this.#parts = parts;
    this.#now = parts.now ?? monotonicNow;
  }

  /** Whether the last report was that entries wait. */
  get isReported(): boolean {
    return this.#isReported;
  }

  /** Looks, unless it has only just looked. Throws what the store throws. */
  async look(): Promise<void> {
    if (this.#now() - this.#lookedAt < LOOK_MS) return;
    this.#lookedAt = this.#now();
    const { store } = this.#parts;
    const oldest = await store.reconcile({ deadline: monotonicNow() + READ_MS }, findOldestRow);
    if (oldest === undefined || oldest !== this.#oldest?.groupNumber) this.#moved(oldest);
    else this.#stands(this.#oldest.since);
  }

  #moved(oldest: string | undefined): void {
    this.#oldest = oldest === undefined ? undefined : { groupNumber: oldest, since: this.#now() };
    if (!this.#isReported) return;
    this.#isReported = false;
    this.#parts.log.info({}, 'entries become leaves of the audit log again');
    this.#parts.alerts.clear('audit-entries-waiting', 'audit log');
  }

  #stands(since: number): void {
    const seconds = Math.floor((this.#now() - since) / 1_000);
    if (this.#isReported || this.#now() - since < WAITING_MS) return;
    this.#isReported = true;
    this.#parts.alerts.raise('audit-entries-waiting', 'audit log', { seconds });
  }
}
