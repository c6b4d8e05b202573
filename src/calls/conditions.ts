/**
 * Conditions that show only in what came of calls: a caller that fails to decrypt again and again,
 * one that asks for what is dangerous and may not, a quota that is used up.
 *
 * - Each is one replica's finding; an alert that lasts is raised once a minute, and ends an hour
 *   after it was last found.
 * - Noting a call that went well costs a comparison.
 */
import { monotonicNow } from '../call.ts';
import { Lru } from '../lru.ts';
import type { Alerts } from '../signals/alerts.ts';
import type { CallOutcome } from './outcomes.ts';

const MINUTE_MS = 60_000;
/** So many in a minute are a burst: a person who mistypes, or a client that retries, has less. */
const FAILURES = 30;
/** Of so many callers and subjects it is known what they did in the last minute. */
const REMEMBERED = 10_000;

export interface CallConditionsParts {
  readonly alerts: Pick<Alerts, 'raise'>;
  /** The full names of the methods that are sensitive. */
  readonly sensitive: ReadonlySet<string>;
}

/** Finds conditions in what came of calls. */
export class CallConditions {
  readonly #parts: CallConditionsParts;
  /** How many ciphertexts did not open, by caller, since when. */
  readonly #failures = new Lru<string, { count: number; readonly since: number }>(REMEMBERED);
  /** When an alert was raised, by its id and subject. */
  readonly #raised = new Lru<string, number>(REMEMBERED);

  constructor(parts: CallConditionsParts) {
    this.#parts = parts;
  }

  /** Notes what came of a call. */
  note(outcome: CallOutcome): void {
    const { error, caller } = outcome;
    if (caller === undefined) return;
    const undecrypted = countUndecrypted(outcome);
    if (undecrypted > 0) this.#noteFailures(caller, undecrypted, outcome);
    if (error === undefined) return;
    if (error.reason === 'QUOTA_EXCEEDED') this.#noteQuota(caller, outcome);
    else if (isDenied(outcome) && this.#parts.sensitive.has(outcome.method)) {
      const { method, resource, address, requestId } = outcome;
      const fields = { caller, method, resource, reason: error.reason, address, requestId };
      this.#raise('sensitive-denied', `${caller} ${method}`, fields);
    }
  }

  #noteFailures(caller: string, count: number, { address, requestId }: CallOutcome): void {
    const now = monotonicNow();
    const known = this.#failures.get(caller);
    const window =
      known !== undefined && now - known.since < MINUTE_MS ? known : { count: 0, since: now };
    window.count += count;
    this.#failures.set(caller, window);
    if (window.count < FAILURES) return;
    const seconds = Math.ceil((now - window.since) / 1000);
    const fields = { caller, count: window.count, seconds, address, requestId };
    this.#raise('decryption-failures', caller, fields);
  }

  #noteQuota(caller: string, { tenant, error }: CallOutcome): void {
    const { quota, limit } = error?.metadata ?? {};
    const whose = tenant === undefined ? { caller } : { tenant };
    this.#raise('quota-exhausted', `${quota} of ${tenant ?? caller}`, { ...whose, quota, limit });
  }

  #raise(
    id: 'sensitive-denied' | 'decryption-failures' | 'quota-exhausted',
    subject: string,
    fields: object,
  ): void {
    const now = monotonicNow();
    const key = `${id} ${subject}`;
    if (now - (this.#raised.get(key) ?? Number.NEGATIVE_INFINITY) < MINUTE_MS) return;
    this.#raised.set(key, now);
    this.#parts.alerts.raise(id, subject, fields);
  }
}

/** Returns how many ciphertexts did not open, of a batch's items too. */
function countUndecrypted({ error, notes }: CallOutcome): number {
  if (error !== undefined) return error.reason === 'DECRYPTION_FAILED' ? 1 : 0;
  if (notes?.items === undefined) return 0;
  return notes.items.filter(({ outcome }) => outcome === 'DECRYPTION_FAILED').length;
}

/** Whether it was denied: also in a tenant in which its caller has nothing. */
function isDenied({ error, tenant }: CallOutcome): boolean {
  switch (error?.reason) {
    case 'PERMISSION_MISSING':
    case 'CALLER_SUSPENDED':
      return true;
    case 'RESOURCE_NOT_FOUND':
      return tenant === undefined;
    default:
      return false;
  }
}
