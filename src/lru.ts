/**
 * A map of bounded size that forgets what hasn't been used for long (second chance, also called
 * clock).
 *
 * Finding something marks it and moves nothing, so that it costs what a Map does. Knows nothing of
 * what it holds.
 */

interface Entry<V> {
  readonly value: V;
  /** Found since it was put in or last spared. */
  used: boolean;
}

/** How a memory is doing. */
export interface CacheFigures {
  readonly size: number;
  readonly limit: number;
  readonly hits: number;
  readonly misses: number;
}

/** At most `limit` entries; what falls out is given to `onEvict`. */
export class Lru<K, V> {
  /** In the order in which they come up for eviction. */
  readonly #entries = new Map<K, Entry<V>>();
  readonly #limit: number;
  readonly #onEvict: ((value: V) => void) | undefined;
  #hits = 0;
  #misses = 0;

  constructor(limit: number, onEvict?: (value: V) => void) {
    this.#limit = limit;
    this.#onEvict = onEvict;
  }

  /** How much it holds and may hold, and how often {@link Lru.get} has found something or not. */
  get figures(): CacheFigures {
    const { size } = this.#entries;
    return { size, limit: this.#limit, hits: this.#hits, misses: this.#misses };
  }

  get(key: K): V | undefined {
    const entry = this.#entries.get(key);
    if (entry === undefined) {
      this.#misses += 1;
      return undefined;
    }
    this.#hits += 1;
    entry.used = true;
    return entry.value;
  }

  /** As {@link Lru.get}, without marking it. */
  peek(key: K): V | undefined {
    return this.#entries.get(key)?.value;
  }

  /** All of them, none marked. */
  *values(): Iterable<V> {
    for (const { value } of this.#entries.values()) yield value;
  }

  set(key: K, value: V): void {
    this.#entries.delete(key);
    if (this.#entries.size >= this.#limit) this.#evictOne();
    this.#entries.set(key, { value, used: false });
  }

  delete(key: K): void {
    this.#entries.delete(key);
  }

  /** Drops what fits, as {@link Lru.delete} does. */
  deleteWhere(fits: (value: V, key: K) => boolean): void {
    for (const [key, { value }] of this.#entries) if (fits(value, key)) this.#entries.delete(key);
  }

  /** Drops what fits, each given to `onEvict`. */
  evictWhere(fits: (value: V) => boolean): void {
    for (const [key, { value }] of this.#entries) {
      if (!fits(value)) continue;
      this.#entries.delete(key);
      this.#onEvict?.(value);
    }
  }

  clear(): void {
    this.#entries.clear();
  }

  /**
   * The first that wasn't used goes; those before it are spared once and come up again after all
   * others.
   */
  #evictOne(): void {
    for (const [key, entry] of this.#entries) {
      this.#entries.delete(key);
      if (!entry.used) {
        this.#onEvict?.(entry.value);
        return;
      }
      entry.used = false;
      this.#entries.set(key, entry);
    }
  }
}
