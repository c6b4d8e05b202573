/**
 * Connections to Postgres, lent one at a time.
 *
 * Owns how long a call waits for one, that no statement outlives its call's deadline, and that a
 * connection whose state is in doubt is never lent again. Keeps no state on a connection between
 * two loans and uses no named statements, so that a pooler in transaction mode may stand in
 * between. Doesn't know what the statements are.
 */
import pg from 'pg';
import { millisecondsLeft } from '../../call.ts';
import { KeywardError } from '../../errors.ts';
import { DatabaseClient } from './client.ts';
import { endsConnection, fromDatabase } from './failure.ts';

/** How long a call waits for a connection while all are lent. */
export const ACQUIRE_MS = 300;
/** How long making a new connection may take, TLS and authentication included. */
const CONNECT_MS = 5_000;
const ROLLBACK_MS = 1_000;
const IDLE_MS = 60_000;
/** So that connections move to a new server after a fail-over by name. */
const LIFETIME_SECONDS = 1_800;
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** Up to `size` connections, made when wanted. */
export class Connections {
  readonly #pool: pg.Pool;
  readonly #size: number;
  readonly #waiting: (() => void)[] = [];
  /** Connections that have failed. */
  readonly #broken = new WeakSet<pg.PoolClient>();
  #taken = 0;
  #lent = 0;
  #closing: Promise<void> | undefined;

  /** `onError` hears of connections that failed while nobody had them; nobody else does. */
  constructor(config: pg.ClientConfig, size: number, onError: (error: Error) => void) {
    this.#size = size;
    this.#pool = new pg.Pool({
      ...config,
      Client: DatabaseClient,
      max: size,
      connectionTimeoutMillis: CONNECT_MS,
      idleTimeoutMillis: IDLE_MS,
      maxLifetimeSeconds: LIFETIME_SECONDS,
    });
    // Without a listener the process dies with the first backend that is terminated while idle.
    this.#pool.on('error', onError);
    // For life: the pool takes its own listener off before it lends one, and what ends a connection
    // may come in one piece with what opened it, before anybody who waits for it has a turn.
    this.#pool.on('connect', (client) => client.on('error', () => this.#broken.add(client)));
  }

  /**
   * Lends a connection; whoever takes it must `release()` it.
   *
   * @throws KeywardError DATABASE_POOL_EXHAUSTED after {@link ACQUIRE_MS}, DATABASE_UNAVAILABLE,
   * DEADLINE_EXCEEDED.
   */
  async acquire(deadline: number): Promise<Connection> {
    await this.#takePlace(deadline);
    const connecting = this.#pool.connect().then(
      (client) => {
        this.#lent++;
        return new Connection(client, {
          isBroken: () => this.#broken.has(client),
          onRelease: () => {
            this.#lent--;
            this.#leavePlace();
          },
        });
      },
      (cause: unknown) => {
        this.#leavePlace();
        throw new KeywardError('DATABASE_UNAVAILABLE', { cause });
      },
    );
    return orDeadline(connecting, deadline, (late) => late.release());
  }

  /** Ends when every connection was given back; idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#pool.end();
    return this.#closing;
  }

  // The pool's own queue counts waiting for a free connection and making a new one against one
  // limit, and the two need different ones; behind this door it never has to queue.
  async #takePlace(deadline: number): Promise<void> {
    if (this.#taken < this.#size) {
      this.#taken++;
      return;
    }
    const left = millisecondsLeft(deadline);
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const timer = setTimeout(
      () => {
        this.#waiting.splice(this.#waiting.indexOf(enter), 1);
        reject(new KeywardError(left < ACQUIRE_MS ? 'DEADLINE_EXCEEDED' : this.#whyNone()));
      },
      Math.min(left, ACQUIRE_MS),
    );
    const enter = (): void => {
      clearTimeout(timer);
      resolve();
    };
    this.#waiting.push(enter);
    return promise;
  }

  #leavePlace(): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#taken--;
    else next();
  }

  #whyNone(): 'DATABASE_POOL_EXHAUSTED' | 'DATABASE_UNAVAILABLE' {
    return this.#lent === 0 ? 'DATABASE_UNAVAILABLE' : 'DATABASE_POOL_EXHAUSTED';
  }
}

/** What a loan needs besides the connection. */
interface Loan {
  readonly isBroken: () => boolean;
  readonly onRelease: () => void;
}

/** A connection on loan. */
export class Connection {
  readonly #client: pg.PoolClient;
  readonly #loan: Loan;
  #isEnded = false;
  #doubtful = false;

  constructor(client: pg.PoolClient, loan: Loan) {
    this.#client = client;
    this.#loan = loan;
  }

  /** Whether the connection broke, so that it isn't known what became of the last statement. */
  get lost(): boolean {
    return this.#isEnded || this.#loan.isBroken();
  }

  /**
   * Runs one statement; or several in one string, when there are no values and the results don't
   * matter.
   *
   * @throws KeywardError as failure.ts says, or whatever else Postgres or pg threw.
   */
  async query<Row extends pg.QueryResultRow>(
    text: string,
    values: readonly unknown[],
    deadline: number,
  ): Promise<pg.QueryResult<Row>> {
    const left = millisecondsLeft(deadline);
    if (left === 0) throw new KeywardError('DEADLINE_EXCEEDED');
    const query = {
      text,
      values: [...values],
      query_timeout: Math.min(Math.ceil(left), LONGEST_TIMER_MS),
    };
    try {
      return await this.#client.query<Row>(query satisfies TimedQuery);
    } catch (error) {
      if (!(error instanceof pg.DatabaseError)) this.#doubtful = true;
      else if (endsConnection(error)) this.#isEnded = true;
      throw fromDatabase(error, this.lost);
    }
  }

  /**
   * Undoes the transaction; never throws, as nothing more than dropping the connection could be
   * done about it.
   */
  async rollback(): Promise<void> {
    if (this.lost || this.#doubtful) return;
    const query = { text: 'ROLLBACK', query_timeout: ROLLBACK_MS };
    await this.#client.query(query satisfies TimedQuery).catch(() => {
      this.#doubtful = true;
    });
  }

  /** Gives the connection back, or drops it when its state is in doubt. */
  release(): void {
    this.#client.release(this.lost || this.#doubtful);
    this.#loan.onRelease();
  }
}

/** pg reads `query_timeout` from a statement, its types don't say so. */
type TimedQuery = pg.QueryConfig & { readonly query_timeout: number };

/**
 * What `promise` brings, or DEADLINE_EXCEEDED at the deadline; `onLate` gets what it brings after
 * that.
 */
async function orDeadline<T>(
  promise: Promise<T>,
  deadline: number,
  onLate: (value: T) => void,
): Promise<T> {
  const expired = Promise.withResolvers<never>();
  let late = false;
  const timer = setTimeout(
    () => {
      late = true;
      expired.reject(new KeywardError('DEADLINE_EXCEEDED'));
    },
    Math.min(millisecondsLeft(deadline), LONGEST_TIMER_MS),
  );
  promise.then(
    (value) => {
      if (late) onLate(value);
    },
    () => {},
  );
  try {
    return await Promise.race([promise, expired.promise]);
  } finally {
    clearTimeout(timer);
  }
}
