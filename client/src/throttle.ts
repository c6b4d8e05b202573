/**
 * Which calls a client does not send, because the service is full and would refuse most of them:
 * adaptive throttling as in "Site Reliability Engineering" (Google, 2016), chapter 21.
 *
 * A refusal costs a server a good part of what a call costs it, so that a service which is offered
 * several times what it can do would do little else. Invariants:
 * - no call is held back while the service refuses none as full;
 * - of what the service takes nothing is held back: it gets {@link PER_TAKEN} times as many calls
 *   as it takes, and so takes more as soon as it can;
 * - it always gets some: {@link ALWAYS} in each {@link WINDOW_MS}.
 * Knows no call and no address.
 */
import { heldBack, KeywardError } from './errors.ts';

/**
 * How long what the service answered counts, less and less. The book has two minutes, after which a
 * client would need several more to send again what it may.
 */
const WINDOW_MS = 10_000;
/**
 * Two in the book. A refusal costs this service's server a sixth of what a call costs it, so that
 * these cost it a tenth more; with fewer a client takes longer until it sends again what it may.
 */
const PER_TAKEN = 1.5;
/** So many more than that are sent in any case. */
const ALWAYS = 3;
/** What a service that is full refuses calls with; a tenant's quota is none of them. */
const FULL: readonly (string | undefined)[] = [
  'SERVER_BUSY',
  'HSM_QUEUE_FULL',
  'DATABASE_POOL_EXHAUSTED',
];

/** What a throttle needs of the world, for tests to give it another. */
export interface ThrottleParts {
  /** Returns milliseconds that are never set back. */
  readonly now?: () => number;
  /** Returns a number from 0 up to 1. */
  readonly random?: () => number;
}

/** Says which calls of one method are sent to one address. */
export class Throttle {
  readonly #now: () => number;
  readonly #random: () => number;
  /** Calls that were answered, or not sent, and those of them that the service took. */
  #calls = 0;
  #taken = 0;
  #countedAt: number;
  #refusal: KeywardError | undefined;

  constructor({ now = () => performance.now(), random = Math.random }: ThrottleParts = {}) {
    this.#now = now;
    this.#random = random;
    this.#countedAt = now();
  }

  /** Throws for a call that is not to be sent: as the service did that refused one before. */
  admit(): void {
    if (this.#refusal === undefined) return;
    this.#forget();
    const excess = this.#calls - PER_TAKEN * this.#taken - ALWAYS;
    if (excess <= 0 || this.#random() * (this.#calls + 1) >= excess) return;
    this.#calls += 1;
    throw heldBack(this.#refusal);
  }

  /** Counts a call that the service took. */
  succeeded(): void {
    this.#forget();
    this.#calls += 1;
    this.#taken += 1;
  }

  /** Counts a call that failed, where the service has answered it. */
  failed(error: unknown): void {
    if (!(error instanceof KeywardError) || error.reason === undefined) return;
    if (!FULL.includes(error.reason)) {
      this.succeeded();
      return;
    }
    this.#forget();
    this.#calls += 1;
    this.#refusal = error;
  }

  #forget(): void {
    const now = this.#now();
    const left = Math.exp((this.#countedAt - now) / WINDOW_MS);
    this.#countedAt = now;
    this.#calls *= left;
    this.#taken *= left;
  }
}
