/**
 * What is found out for metrics by asking someone else, a database or a process: not more often
 * than every so long, however often metrics are asked for, and never waited for for long.
 *
 * Nothing is remembered for long either: what could not be found out again is not known any more.
 */
import { setTimeout as delay } from 'node:timers/promises';

/** How long metrics wait for it, at most; if it comes later, the next ones have it. */
const WAIT_MS = 250;
/** A value is known for so many times as long as it is not asked for again. */
const KNOWN = 4;

interface Answer<T> {
  readonly value: T;
  readonly at: number;
}

/** Asks, and remembers the last answer for a while. */
export class Latest<T> {
  readonly #ask: () => Promise<T>;
  readonly #everyMs: number;
  #asking: Promise<void> | undefined;
  #askedAt = Number.NEGATIVE_INFINITY;
  #answer: Answer<T> | undefined;

  constructor(everyMs: number, ask: () => Promise<T>) {
    this.#everyMs = everyMs;
    this.#ask = ask;
  }

  /** The last answer. Throws Error where there is none, or none that is recent. */
  get value(): T {
    const answer = this.#answer;
    if (answer === undefined || performance.now() - answer.at > KNOWN * this.#everyMs)
      throw new Error('it is not known');
    return answer.value;
  }

  /** Asks, unless it was asked for lately. Returns when it is known, or soon. Never rejects. */
  async refresh(): Promise<void> {
    const now = performance.now();
    if (this.#asking === undefined && now - this.#askedAt >= this.#everyMs) {
      this.#askedAt = now;
      this.#asking = this.#ask().then(
        (value) => this.#answered({ value, at: performance.now() }),
        () => this.#answered(this.#answer),
      );
    }
    const waited = new AbortController();
    await Promise.race([
      this.#asking,
      delay(WAIT_MS, undefined, { signal: waited.signal }).catch(() => {}),
    ]);
    waited.abort();
  }

  #answered(answer: Answer<T> | undefined): void {
    this.#answer = answer;
    this.#asking = undefined;
  }
}
