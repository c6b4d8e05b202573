/**
 * The owner's connection: for `migrate` and `token init`, which run by hand or before serving,
 * never while serving.
 *
 * One plain connection, straight to the server rather than through a pooler, since migrating takes
 * a lock of the session. It passes row-level security, and so is handed to nothing that serves
 * callers.
 */
import type pg from 'pg';
import { appendStatement } from '../audit/audit.ts';
import { NO_TENANT, type Stream, type WriterIdentity, WriterStreams } from '../audit/streams.ts';
import { parseAddress } from './address.ts';
import { DatabaseClient } from './client.ts';
import { settleSession } from './session.ts';

const CONNECT_MS = 10_000;

export interface OwnerConnection {
  /** Runs one statement and returns its rows. */
  query<Row extends pg.QueryResultRow>(text: string, values?: readonly unknown[]): Promise<Row[]>;
  /** Runs `work` between BEGIN and COMMIT, or ROLLBACK when it throws. */
  transaction<T>(work: () => Promise<T>): Promise<T>;
  /** What proves the audit entries that are written on this connection. */
  readonly stream: Pick<Stream, 'prove'>;
  /** Proves them by this identity from now on; until then they have no proof. */
  proveBy(identity: WriterIdentity): void;
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
  return withOwnerClient(url, caFile, async (client) => {
    const streams = new WriterStreams();
    const stream = streams.lend();
    const owner: OwnerConnection = {
      stream,
      proveBy: (identity) => streams.use(identity),
      query: async <Row extends pg.QueryResultRow>(text: string, values: readonly unknown[] = []) =>
        (await client.query<Row>(text, [...values])).rows,
      transaction: async (inner) => {
        await client.query('BEGIN');
        try {
          const result = await inner();
          await client.query('COMMIT');
          stream.committed();
          return result;
        } catch (error) {
          await client.query('ROLLBACK').catch(() => {});
          stream.undone();
          throw error;
        }
      },
    };
    const result = await work(owner);
    if (stream.isOpen) await closeStream(owner, stream);
    return result;
  });
}

/** Says that there are no more rows than there were. */
async function closeStream(owner: OwnerConnection, stream: Stream): Promise<void> {
  const closing = { tenantId: NO_TENANT, entryCount: 0, leaves: '' };
  const { text, values } = appendStatement(stream, [closing]);
  await owner.query(text, values);
}

/** As {@link withOwnerConnection}, with pg's own client; for `migrate.ts`. */
export async function withOwnerClient<T>(
  url: string,
  caFile: string | undefined,
  work: (client: pg.Client) => Promise<T>,
): Promise<T> {
  const { servers, display } = parseAddress(url, caFile);
  const failures: unknown[] = [];
  for (const server of servers) {
    const client = await connect(server).catch((error: unknown) => void failures.push(error));
    if (client !== undefined) return work(client).finally(() => client.end());
  }
  const why = failures.map((error) => (error instanceof Error ? error.message : String(error)));
  throw new Error(`cannot use the database ${display}: ${why.join('; ')}`, {
    cause: failures.at(-1),
  });
}

async function connect(server: pg.ClientConfig): Promise<pg.Client> {
  const client = new DatabaseClient({ ...server, connectionTimeoutMillis: CONNECT_MS });
  // What breaks it also fails the statement that is under way; without a listener the process would
  // die of it first.
  client.on('error', () => {});
  try {
    await client.connect();
    await settleSession(client);
    return client;
  } catch (error) {
    await client.end();
    throw error;
  }
}
