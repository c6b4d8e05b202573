/**
 * The owner's connection: for `migrate` and `token init`, which run by hand or before serving,
 * never while serving.
 *
 * One plain connection, straight to the server rather than through a pooler, since migrating takes
 * a lock of the session. It passes row-level security, and so is handed to nothing that serves
 * callers.
 */
import type pg from 'pg';
import { parseAddress } from './address.ts';
import { DatabaseClient } from './client.ts';

const CONNECT_MS = 10_000;

export interface OwnerConnection {
  /** Runs one statement and returns its rows. */
  query<Row extends pg.QueryResultRow>(text: string, values?: readonly unknown[]): Promise<Row[]>;
  /** Runs `work` between BEGIN and COMMIT, or ROLLBACK when it throws. */
  transaction<T>(work: () => Promise<T>): Promise<T>;
}

/**
 * Connects with `MIGRATION_DATABASE_URL`, runs `work`, disconnects.
 *
 * @throws Error, in words for the operator, when the database can't be reached; and whatever `work`
 * throws.
 */
export function withOwnerConnection<T>(
  url: string,
  caFile: string | undefined,
  work: (owner: OwnerConnection) => Promise<T>,
): Promise<T> {
  return withOwnerClient(url, caFile, (client) => {
    const owner: OwnerConnection = {
      query: async <Row extends pg.QueryResultRow>(text: string, values: readonly unknown[] = []) =>
        (await client.query<Row>(text, [...values])).rows,
      transaction: async (inner) => {
        await client.query('BEGIN');
        try {
          const result = await inner();
          await client.query('COMMIT');
          return result;
        } catch (error) {
          await client.query('ROLLBACK').catch(() => {});
          throw error;
        }
      },
    };
    return work(owner);
  });
}

/** As {@link withOwnerConnection}, with pg's own client; for `migrate.ts`. */
export async function withOwnerClient<T>(
  url: string,
  caFile: string | undefined,
  work: (client: pg.Client) => Promise<T>,
): Promise<T> {
  const { config, display } = parseAddress(url, caFile);
  const client = new DatabaseClient({ ...config, connectionTimeoutMillis: CONNECT_MS });
  // What breaks it also fails the statement that is under way; without a listener the process would
  // die of it first.
  client.on('error', () => {});
  try {
    await client.connect();
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new Error(`cannot use the database ${display}: ${why}`, { cause: error });
  }
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}
