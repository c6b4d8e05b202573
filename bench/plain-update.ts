/**
 * What re-wrapping is compared with: a plain UPDATE of the same rows, read and written back in
 * batches, by keyset, on as many connections as the job has workers.
 *
 * Owns the table `floor`, a copy of the service's. Knows no kind of row.
 */
import type pg from 'pg';
import { monotonicNow } from '../src/call.ts';
import type { Environment } from './environment.ts';

/** As many as the service has workers with two agents. */
export const CONNECTIONS = 5;

/** A table of the service's, as the plain UPDATE reads and writes it. */
export interface PlainTable<Row extends pg.QueryResultRow> {
  readonly name: string;
  /** Three columns. */
  readonly primaryKey: string;
  /** What is copied besides, that is all but what the table has defaults for, or generates. */
  readonly columns: string;
  /** What is read of a row: what the service reads. */
  readonly read: string;
  readonly batch: number;
  /**
   * Writes back what a batch was, in the columns that the service writes; `first` is its first
   * row's primary key.
   */
  write(rows: readonly Row[], first: Place): pg.QueryConfig;
}

/** A row's primary key. */
type Place = readonly unknown[];
/** Has the batch that begins with a row; returns how many rows it had. */
type Batch = (client: pg.Client, first: Place) => Promise<number>;

/** See this file's first paragraph. */
export class PlainUpdate {
  readonly #environment: Environment;
  readonly #owner: pg.Client;
  /** Where the batches begin. */
  readonly #places: readonly Place[];
  readonly #batch: Batch;
  #next = 0;

  private constructor(
    environment: Environment,
    owner: pg.Client,
    places: readonly Place[],
    batch: Batch,
  ) {
    this.#environment = environment;
    this.#owner = owner;
    this.#places = places;
    this.#batch = batch;
  }

  /** Copies the rows that the service's table has now. */
  static async create<Row extends pg.QueryResultRow>(
    environment: Environment,
    owner: pg.Client,
    { name, primaryKey, columns, read, batch, write }: PlainTable<Row>,
  ): Promise<PlainUpdate> {
    await owner.query(`CREATE TABLE floor (LIKE ${name} INCLUDING ALL)`);
    await owner.query(
      `INSERT INTO floor (${primaryKey}, ${columns}) SELECT ${primaryKey}, ${columns} FROM ${name}`,
    );
    await owner.query('ANALYZE floor');
    const { rows: places } = await owner.query<unknown[]>({
      text: `SELECT ${primaryKey} FROM (
          SELECT ${primaryKey}, row_number() OVER (ORDER BY ${primaryKey}) AS n FROM floor) numbered
        WHERE n % $1 = 1 ORDER BY n`,
      values: [batch],
      rowMode: 'array',
    });
    return new PlainUpdate(environment, owner, places, async (client, first) => {
      const { rows } = await client.query<Row>(
        `SELECT ${read} FROM floor WHERE (${primaryKey}) >= ($1, $2, $3)
          ORDER BY ${primaryKey} LIMIT ${batch}`,
        [...first],
      );
      await client.query(write(rows, first));
      return rows.length;
    });
  }

  /** Rows a second, for so long. */
  async run(milliseconds: number): Promise<number> {
    const clients = [this.#owner];
    while (clients.length < CONNECTIONS) clients.push(await this.#environment.connectAsOwner());
    const began = monotonicNow();
    const counts = await Promise.all(
      clients.map(async (client) => {
        let count = 0;
        while (monotonicNow() - began < milliseconds)
          count += await this.#batch(client, this.#nextPlace());
        return count;
      }),
    );
    const seconds = (monotonicNow() - began) / 1000;
    await Promise.all(clients.slice(1).map((client) => client.end()));
    return counts.reduce((sum, count) => sum + count, 0) / seconds;
  }

  /** Behind the last comes the first. */
  #nextPlace(): Place {
    return this.#places[this.#next++ % this.#places.length] ?? [];
  }

  /** Autovacuum is to have nothing to do with it while other things are measured. */
  async remove(): Promise<void> {
    await this.#owner.query('DROP TABLE floor');
  }
}
