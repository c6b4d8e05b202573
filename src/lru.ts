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

/** At most `limit` entries; what falls out is given to `onEvict`. */
export class Lru<K, V> {
  /** In the order in which they come up for eviction. */
  readonly #entries = new Map<K, Entry<V>>();
  readonly #limit: number;
  readonly #onEvict: ((value: V) => void) | undefined;

  constructor(limit: number, onEvict?: (value: V) => void) {
    this.#limit = limit;
    this.#onEvict = onEvict;
  }

  get(key: K): V | undefined {
    const entry = this.#entries.get(key);
    if (entry === undefined) return undefined;
    entry.used = true;
    return entry.value;
  }

  set(key: K, value: V): void {
    this.#entries.delete(key);
    if (this.#entries.size >= this.#limit) this.#evictOne();
    this.#entries.set(key, { value, used: false });
  }

  delete(key: K): void {
    this.#entries.delete(key);
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
