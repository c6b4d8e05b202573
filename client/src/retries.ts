/**
 * When a call is made again: which failures that can help with, after how long, and how many in
 * all.
 *
 * Knows no call and no address.
 */
import { CHECKSUM_MISMATCH, isUnsent, KeywardError } from './errors.ts';

/** The first back-off when the service gives none, in milliseconds. */
const FIRST_BACKOFF_MS = 200;
/** The least that is waited where the service gives no time. */
const LEAST_MS = 20;

/**
 * Returns whether making the same call again can help: the service says so of itself or of its
 * load, bytes changed on their way, or no answer of the service's own came at all. A call that may
 * be made `once` only is made again where nothing of it was sent.
 */
export function canHelp(error: unknown, once: boolean): error is KeywardError {
  if (!(error instanceof KeywardError)) return false;
  if (once) return isUnsent(error);
  const { code, reason, retryDelayMs } = error;
  if (code === 'UNAVAILABLE' && reason === undefined) return true;
  const isInvited = code === 'UNAVAILABLE' || code === 'RESOURCE_EXHAUSTED';
  return retryDelayMs !== undefined && (isInvited || reason === CHECKSUM_MISMATCH);
}

/**
 * Returns after how many milliseconds: at least what the service says, twice as long each time, and
 * half as much again at random, so that callers refused together don't come back together.
 */
export function backoffMs({ retryDelayMs }: KeywardError, retries: number): number {
  const first = retryDelayMs === undefined ? FIRST_BACKOFF_MS : Math.max(retryDelayMs, LEAST_MS);
  return first * 2 ** retries * (1 + Math.random() / 2);
}

const MAX_TOKENS = 100;
const TOKENS_PER_SUCCESS = 0.1;

/**
 * How many retries all calls of a client have together, by gRPC's rule for throttling retries (A6):
 * a token goes with each failure and a tenth of one comes with each success, and there are no
 * retries while half of them or fewer are left. So a service that refuses nearly everything has at
 * most some 50 calls more from this client than callers have made.
 *
 * What the service has not answered costs nothing: a lost connection has all its calls made again
 * at once, and one that is not there costs the service nothing.
 */
export class RetryBudget {
  #tokens = MAX_TOKENS;

  succeeded(): void {
    this.#tokens = Math.min(MAX_TOKENS, this.#tokens + TOKENS_PER_SUCCESS);
  }

  /** Counts a failure that a retry could help with. Returns whether there may be one. */
  allows({ reason }: KeywardError): boolean {
    if (reason === undefined) return true;
    this.#tokens = Math.max(0, this.#tokens - 1);
    return this.#tokens > MAX_TOKENS / 2;
  }
}
