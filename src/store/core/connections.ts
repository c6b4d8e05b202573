/**
 * Connections to Postgres, lent one at a time.
 *
 * Owns how long a call waits for one, that no statement outlives its call's deadline, and that a
 * connection whose state is in doubt is never lent again. Keeps no state on a connection between
 * two loans, but for plans of statements where no pooler stands in between: one in transaction mode
 * may. Doesn't know what the statements are.
 */
import { hash } from 'node:crypto';
import pg from 'pg';
import { millisecondsLeft } from '../../call.ts';
import { KeywardError } from '../../errors.ts';
import { DatabaseClient } from './client.ts';
import { endsConnection, fromDatabase, isOfReadOnlyServer } from './failure.ts';
import type { Servers } from './servers.ts';
import { settleSession, type TimedQuery } from './session.ts';
import { TYPES } from './types.ts';

/** How long making a new connection may take, TLS and authentication included. */
const CONNECT_MS = 5_000;
const ROLLBACK_MS = 1_000;
const IDLE_MS = 60_000;
/** So that connections move to a new server after a fail-over by name. */
const LIFETIME_SECONDS = 1_800;
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** How many connections there are, and how long a call waits for one while all are lent. */
export interface Bounds {
  readonly size: number;
  readonly waitMs: number;
}

/** How connections are doing. */
export interface PoolFigures {
  readonly inUse: number;
  readonly open: number;
  readonly limit: number;
  readonly waiting: number;
}

/** Up to `size` connections, made when wanted. */
export class Connections {
  readonly #pool: pg.Pool;
  readonly #servers: Servers;
  /** Of each connection, the servers' epoch that it was made in. */
  readonly #epochs = new WeakMap<pg.PoolClient, number>();
  readonly #size: number;
  readonly #waitMs: number;
  readonly #waiting: (() => void)[] = [];
  /** Connections that have failed. */
  readonly #broken = new WeakSet<pg.PoolClient>();
  /** Of each connection that has a session of its own, the statements that it has a plan of. */
  readonly #planned = new WeakMap<pg.ClientBase, Set<string>>();
  #taken = 0;
  #lent = 0;
  #closing: Promise<void> | undefined;

  /** `onError` hears of connections that failed while nobody had them; nobody else does. */
  constructor(servers: Servers, { size, waitMs }: Bounds, onError: (error: Error) => void) {
    this.#size = size;
    this.#waitMs = waitMs;
    this.#servers = servers;
    this.#pool = new pg.Pool({
      Client: class extends DatabaseClient {
        constructor(options?: pg.ClientConfig) {
          super({ ...options, ...servers.current });
        }
      },
      max: size,
      types: TYPES,
      connectionTimeoutMillis: CONNECT_MS,
      idleTimeoutMillis: IDLE_MS,
      maxLifetimeSeconds: LIFETIME_SECONDS,
      verify: (client, done) => {
        settleSession(client).then((isItsOwn) => {
          if (isItsOwn) this.#planned.set(client, new Set());
          done();
        }, done);
      },
    });
    // Without a listener the process dies with the first backend that is terminated while idle.
    this.#pool.on('error', onError);
    // For life: the pool takes its own listener off before it lends one, and what ends a connection
    // may come in one piece with what opened it, before anybody who waits for it has a turn.
    this.#pool.on('connect', (client) => {
      client.on('error', () => this.#broken.add(client));
      this.#epochs.set(client, servers.epoch);
    });
  }

  /**
   * Lends a connection; whoever takes it must `release()` it.
   *
   * @throws KeywardError DATABASE_POOL_EXHAUSTED after {@link Bounds.waitMs}, DATABASE_UNAVAILABLE,
   * DEADLINE_EXCEEDED.
   */
  async acquire(deadline: number): Promise<Connection> {
    await this.#takePlace(deadline);
    const connecting = this.#connect().then(
      (client) => {
        this.#lent++;
        return new Connection(client, {
          isBroken: () => this.#broken.has(client),
          planned: this.#planned.get(client),
          onReadOnly: () => this.#servers.distrust(),
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

  /** From each server in turn, and once more where one breaks as it is made. */
  async #connect(): Promise<pg.PoolClient> {
    const failures: string[] = [];
    for (;;) {
      const server = this.#servers.current;
      try {
        const client = await this.#pool.connect();
        if (this.#epochs.get(client) === this.#servers.epoch) return client;
        client.release(true);
      } catch (cause) {
        this.#servers.failed(server);
        failures.push(`${server.host}:${server.port}: ${(cause as Error).message}`);
        if (failures.length <= this.#servers.count) continue;
        throw this.#servers.count === 1 ? cause : new Error(failures.join('; '), { cause });
      }
    }
  }

  /** How many connections are lent, open and allowed, and how many calls wait for one. */
  get figures(): PoolFigures {
    const { totalCount: open } = this.#pool;
    return { inUse: this.#lent, open, limit: this.#size, waiting: this.#waiting.length };
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
        reject(new KeywardError(left < this.#waitMs ? 'DEADLINE_EXCEEDED' : this.#whyNone()));
      },
      Math.min(left, this.#waitMs),
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

/** How a session is had to run a statement by its plan. */
export interface StatementPlan {
  readonly name: string;
  /** What makes the plan, where there is none yet. */
  readonly first: string | undefined;
}

const names = new Map<string, string>();

/**
 * The name of a statement, the same in every process: where a session is another's after all, its
 * plan of that name is of the same statement.
 */
function nameOf(text: string): string {
  const known = names.get(text);
  if (known !== undefined) return known;
  const name = `keyward_${hash('sha256', text, 'hex').slice(0, 32)}`;
  names.set(text, name);
  return name;
}

/** What a loan needs besides the connection. */
interface Loan {
  readonly isBroken: () => boolean;
  /** The statements that its session has a plan of; undefined where it keeps none. */
  readonly planned: Set<string> | undefined;
  /** Hears that its server accepts no writes. */
  readonly onReadOnly: () => void;
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
      else if (isOfReadOnlyServer(error)) this.distrust();
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

  /** Has it, and all that were made until now, be dropped: its server accepts no writes. */
  distrust(): void {
    this.#doubtful = true;
    this.#loan.onReadOnly();
  }

  /**
   * Returns by which name the session knows the statement, once `first` was run; undefined where it
   * is to be given the text each time. Only for texts of which there are few.
   */
  planOf(text: string): StatementPlan | undefined {
    const { planned } = this.#loan;
    if (planned === undefined) return undefined;
    const name = nameOf(text);
    return { name, first: planned.has(name) ? undefined : `PREPARE ${name} AS ${text}` };
  }

  /** The session has this plan from now on. */
  keepPlan(name: string): void {
    this.#loan.planned?.add(name);
  }

  /** Drops the connection when it is given back: what its session has of plans is in doubt. */
  doubtPlans(): void {
    this.#doubtful = true;
  }

  /** Gives the connection back, or drops it when its state is in doubt. */
  release(): void {
    this.#client.release(this.lost || this.#doubtful);
    this.#loan.onRelease();
  }
}

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
