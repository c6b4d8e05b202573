/**
 * pg's client, for which whatever a database sends that is not its protocol is a failure of that
 * connection, and whose connections begin with the settings of `session.ts`.
 *
 * pg parses in a listener, where nobody catches what its parser throws: a broken pooler, or another
 * server at the database's address, ended the process (measured). Reaches into pg for these two
 * things, and does not start without them.
 */
import pg from 'pg';
import { STARTUP } from './session.ts';

/** What is private of pg and used here: how a connection begins to read. */
interface Reading {
  attachListeners?: (stream: Stream) => void;
}

/** What pg does with a stream then. */
interface Stream {
  on(event: string, listener: (...values: unknown[]) => void): unknown;
  destroy(error: Error): unknown;
}

/** What is private of pg and used here: what a connection's first message says. */
interface Starting {
  getStartupConf?: () => Record<string, string>;
}

/** Fails one connection, and not the process, on data that is not PostgreSQL's protocol. */
export class DatabaseClient extends pg.Client {
  constructor(config?: pg.ClientConfig) {
    super(config);
    const { connection } = this as unknown as { readonly connection?: Reading };
    const attach = connection?.attachListeners;
    const starting = this as unknown as Starting;
    const { getStartupConf } = starting;
    if (connection === undefined || attach === undefined || getStartupConf === undefined)
      throw new Error('cannot connect: this pg release reads its connections in another way');
    starting.getStartupConf = () => ({ ...getStartupConf.call(this), ...STARTUP });
    connection.attachListeners = (stream) => attach.call(connection, guarded(stream));
  }
}

/** The stream for what listens to it: a listener that throws ends it. */
function guarded(stream: Stream): Stream {
  return {
    destroy: (error) => stream.destroy(error),
    on: (event, listener) =>
      stream.on(event, (...values) => {
        try {
          listener(...values);
        } catch (error) {
          stream.destroy(error as Error);
        }
      }),
  };
}
