/**
 * The servers of a database, of which one accepts writes at a time: to which the next connection is
 * made, and since when connections are trusted to be to that one.
 *
 * After a fail-over the former primary may well run on, and answer reads with what has been so: so
 * a connection is made only to a server that accepts writes, and once any connection's server is
 * found not to, none that was made before is used again.
 */
import type pg from 'pg';

/** Says which server is connected to. Shared by all connections to a database. */
export class Servers {
  readonly #all: readonly [pg.ClientConfig, ...pg.ClientConfig[]];
  #index = 0;
  #epoch = 0;

  constructor(all: readonly [pg.ClientConfig, ...pg.ClientConfig[]]) {
    this.#all = all;
  }

  get count(): number {
    return this.#all.length;
  }

  /** The one to connect to. */
  get current(): pg.ClientConfig {
    return this.#all[this.#index] ?? this.#all[0];
  }

  /** Goes up with each {@link Servers.distrust}. */
  get epoch(): number {
    return this.#epoch;
  }

  /** Has the next one be connected to, unless that is so since. */
  failed(server: pg.ClientConfig): void {
    if (server === this.current) this.#index = (this.#index + 1) % this.count;
  }

  /** A connection's server accepts no writes: others may be to the same. */
  distrust(): void {
    this.#epoch++;
  }
}
