/**
 * What a peer may do so often, counted as a bucket that leaks: bursts are taken, more than its rate
 * for long is not.
 */

/** How fast a bucket leaks, and how much it holds. */
export interface BucketSize {
  readonly perSecond: number;
  readonly burst: number;
}

/** Counts what happens, and forgets it at a steady rate. */
export class LeakyBucket {
  readonly #size: BucketSize;
  #level = 0;
  #at = performance.now();

  constructor(size: BucketSize) {
    this.#size = size;
  }

  /** Adds to it; returns whether that is more than it holds. */
  overflows(amount = 1): boolean {
    const now = performance.now();
    const leaked = ((now - this.#at) / 1_000) * this.#size.perSecond;
    this.#level = Math.max(0, this.#level - leaked) + amount;
    this.#at = now;
    return this.#level > this.#size.burst;
  }

  /** Empties it. */
  empty(): void {
    this.#level = 0;
  }
}
