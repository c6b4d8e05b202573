/**
 * How much of something scarce one principal may hold: no more than it leaves to the others.
 *
 * A pool is calls under way, open streams, connections, or bytes of requests; a principal is a caller, or an address for as
 * long as there is no caller. Invariants:
 * - one principal alone can hold half of a pool, two a third each, n of them n parts of n + 1 (dynamic thresholds), so
 *   there is room for a newcomer whoever came before;
 * - what is reserved can be held only by what asks for it as reserved;
 * - a principal that holds nothing is not remembered.
 */

/** The size of a pool, and how much of it only reserved uses may hold. */
export interface PoolSize {
  readonly size: number;
  readonly reserve?: number;
}

/** See this file's first paragraph. */
export class Shares {
  readonly #size: number;
  readonly #reserve: number;
  readonly #held = new Map<string, number>();
  #used = 0;

  constructor({ size, reserve = 0 }: PoolSize) {
    this.#size = size;
    this.#reserve = reserve;
  }

  /** What all principals hold together. */
  get used(): number {
    return this.#used;
  }

  /** Returns what a principal holds. */
  heldBy(principal: string): number {
    return this.#held.get(principal) ?? 0;
  }

  /** Whether a principal may take `amount` more; `isReserved` opens the reserve to it. */
  allows(principal: string, amount = 1, isReserved = false): boolean {
    const free = this.#size - this.#used - (isReserved ? 0 : this.#reserve);
    return this.heldBy(principal) + amount <= free;
  }

  /** Whether a principal holds more than is left, as it may after others took theirs, or took what it was not asked for. */
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
