/**
 * How much of something scarce one principal may hold: no more than it leaves to the others.
 *
 * A pool is calls under way, open streams, connections, or bytes of requests; a principal is a
 * caller, or an address for as long as there is no caller. Invariants:
 * - one principal alone can hold half of a pool, two a third each, n of them n parts of n + 1
 *   (dynamic thresholds), so there is room for a newcomer whoever came before;
 * - a principal that holds nothing is not remembered.
 */

/** Bounds what each principal holds of a pool by what it leaves to the others. */
export class Shares {
  readonly #size: number;
  readonly #held = new Map<string, number>();
  #used = 0;

  /** A pool of this size, of which nothing is held. */
  constructor(size: number) {
    this.#size = size;
  }

  /** How much there is to hold. */
  get size(): number {
    return this.#size;
  }

  /** What all principals hold together. */
  get used(): number {
    return this.#used;
  }

  /** Returns what a principal holds. */
  heldBy(principal: string): number {
    return this.#held.get(principal) ?? 0;
  }

  /** Whether a principal may take `amount` more. */
  allows(principal: string, amount = 1): boolean {
    return this.heldBy(principal) + amount <= this.#size - this.#used;
  }

  /**
   * Whether a principal holds more than is left, as it may after others took theirs, or took what
   * it was not asked for.
   */
  isExceededBy(principal: string): boolean {
    return this.heldBy(principal) > this.#size - this.#used + 1;
  }

  /** Takes `amount` for a principal, whether {@link allows} says so or not. */
  take(principal: string, amount = 1): void {
    this.#used += amount;
    this.#held.set(principal, this.heldBy(principal) + amount);
  }

  /** Gives back what {@link take} took. */
  give(principal: string, amount = 1): void {
    this.#used -= amount;
    const left = this.heldBy(principal) - amount;
    if (left > 0) this.#held.set(principal, left);
    else this.#held.delete(principal);
  }
}
