/**
 * The door to Postgres: every statement of the service goes through a {@link Store}.
 *
 * Its invariants: a tenant's rows are seen only inside a transaction that is bound to that tenant,
 * or by the reconciler, which no caller speaks through; what changes anything that a caller can see
 * is a mutation, and a mutation commits together with its audit entry and its row in `changes` or
 * not at all; and whoever asked is told truly whether it did. Every wait ends at the call's
 * deadline. The SQL itself is in the files of this directory that are named after nouns; what it is
 * for isn't known here.
 */
import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import type pg from 'pg';
import { type Call, millisecondsLeft, monotonicNow } from '../call.ts';
import { KeywardError } from '../errors.ts';
import type { TenantId } from '../ids.ts';
import { insertAuditEntry, WAS_ENTERED } from './audit/audit.ts';
import { type ChangeKind, recordChange } from './changes.ts';
import { parseAddress } from './core/address.ts';
import { type Connection, Connections } from './core/connections.ts';
import { mayRunAgain } from './core/failure.ts';
import { checkDatabase } from './core/requirements.ts';
import { RECONCILER_ROLE } from './core/schema.ts';
import type { Deadline, Tx } from './core/transaction.ts';
import { claimRequestId, type Reference } from './request-ids.ts';

const OPEN_MS = 10_000;
/** How often a transaction runs that Postgres undoes in favour of another one. */
const TRIES = 3;
const RETRY_JITTER_MS = 50;
/** How often it is asked what became of a transaction whose connection broke at COMMIT. */
const FATE_POLL_MS = 50;
/**
 * How much later than the caller Postgres itself gives up, in case that nobody is left to tell it.
 */
const SERVER_GRACE_MS = 1_000;
/**
 * Connections beside the pool, for what mustn't wait behind calls: change feed, health, the fate of
 * a lost COMMIT.
 */
const RESERVE_SIZE = 2;
/**
 * Connections for the audit log alone: two groups of entries on their way, and what becomes of them
 * then.
 */
const AUDIT_SIZE = 3;

export interface StoreOptions {
  /** See `parseAddress`; the role is `keyward_service` or a member of it. */
  readonly url: string;
  /** PEM certificates to verify the server against, instead of those that Node trusts. */
  readonly caFile?: string;
  /**
   * How many connections calls share; {@link RESERVE_SIZE} and {@link AUDIT_SIZE} more are opened
   * for the store itself.
   */
  readonly poolSize: number;
  /** The running release, as in package.json; decides whether this schema may be used. */
  readonly release: string;
  /** Hears, for the log, of connections that broke while idle. */
  onError(error: Error): void;
}

/** What a mutation writes besides its own rows. */
export interface Mutation {
  /** The tenant that the transaction is bound to, and whose audit entry it is. */
  readonly tenantId: TenantId;
  /** The resource's full name, as `tenants/a/keys/b`. */
  readonly resource: string;
  /** What every replica must forget once this is committed. */
  readonly change?: { readonly kind: ChangeKind; readonly subjectId: string };
  /** What else the audit entry says. */
  readonly detail?: string;
  /**
   * Done with the reconciler's rights, because the service's don't suffice: erasing, never what a
   * caller asked for.
   */
  readonly asReconciler?: boolean;
}

/** How a transaction is opened. */
interface Scope {
  /** The tenant that it is bound to. */
  readonly tenantId?: TenantId;
  readonly readOnly?: boolean;
  readonly asReconciler?: boolean;
}

/** How a mutation that is sent again is answered without a second effect. */
export interface Replay<T> {
  /** What the answer can be rebuilt from. */
  readonly reference: Reference;
  rebuild(tx: Tx, reference: Reference): Promise<T>;
}

export class Store {
  readonly #calls: Connections;
  readonly #reserve: Connections;
  readonly #audit: Connections;

  private constructor(connect: (size: number) => Connections, poolSize: number) {
    this.#calls = connect(poolSize);
    this.#reserve = connect(RESERVE_SIZE);
    this.#audit = connect(AUDIT_SIZE);
  }

  /**
   * Connects, and checks everything that `requirements.ts` lists.
   *
   * @throws Error, in words for the operator, when the database can't be reached or mustn't be used
   * as it is.
   */
  static async open(options: StoreOptions): Promise<Store> {
    const { config, display } = parseAddress(options.url, options.caFile);
    const connect = (size: number) => new Connections(config, size, options.onError);
    const store = new Store(connect, options.poolSize);
    try {
      await checkDatabase(store, { deadline: monotonicNow() + OPEN_MS }, options.release);
      return store;
    } catch (error) {
      await store.close();
      if (!(error instanceof KeywardError)) throw error;
      const why = error.cause instanceof Error ? error.cause.message : error.message;
      throw new Error(`cannot use the database ${display}: ${why}`, { cause: error });
    }
  }

  /** Ends when every call has given its connection back. */
  async close(): Promise<void> {
    await Promise.all([this.#calls, this.#reserve, this.#audit].map((each) => each.close()));
  }

  /**
   * Throws DATABASE_UNAVAILABLE or DEADLINE_EXCEEDED unless Postgres answers. Doesn't wait behind
   * calls.
   */
  async ping(call: Deadline): Promise<void> {
    await this.queryReserve(call, 'SELECT 1');
  }

  /**
   * Reads one tenant's rows in one read-only transaction (READ COMMITTED).
   *
   * Throws DATABASE_UNAVAILABLE, DATABASE_POOL_EXHAUSTED (after 300 ms), DEADLINE_EXCEEDED, and
   * what `work` throws.
   */
  read<T>(call: Deadline, tenantId: TenantId, work: (tx: Tx) => Promise<T>): Promise<T> {
    return this.#transaction(this.#calls, call, { tenantId, readOnly: true }, work, (connection) =>
      finish(connection, call.deadline),
    );
  }

  /**
   * What the service does by itself, across tenants and with the reconciler's rights, in one
   * transaction (READ COMMITTED). It leaves no audit entry: what a caller can see of it is changed
   * by mutations.
   *
   * Throws as {@link Store.read}, and CONFLICT. When it throws DATABASE_UNAVAILABLE or
   * DEADLINE_EXCEEDED, it isn't known whether anything was changed.
   */
  reconcile<T>(call: Deadline, work: (tx: Tx) => Promise<T>): Promise<T> {
    return this.#transaction(this.#calls, call, { asReconciler: true }, work, (connection) =>
      finish(connection, call.deadline),
    );
  }

  /**
   * Changes one tenant's rows: `work`, the row in `changes` and the audit entry in one transaction
   * (READ COMMITTED).
   *
   * `work` may run up to three times, when Postgres undoes the transaction in favour of another; so
   * it does nothing besides its statements. When this returns, everything is durable. When it
   * throws, nothing was changed, with two exceptions: DEADLINE_EXCEEDED, and DATABASE_UNAVAILABLE
   * if the connection broke at COMMIT and Postgres didn't come back before the deadline to say what
   * became of it.
   *
   * When the call's request id has had its effect before, `work` is not run and the answer is
   * rebuilt.
   *
   * Throws as {@link Store.read}, CONFLICT, and REQUEST_ID_REUSED.
   */
  async mutate<T>(
    call: Call,
    mutation: Mutation,
    work: (tx: Tx) => Promise<T>,
    replay?: Replay<T>,
  ): Promise<T> {
    const { tenantId, change, resource, detail, asReconciler = false } = mutation;
    for (let attempt = 1; ; attempt++) {
      const entryId = randomUUID();
      let xid = '';
      const workAndRecords = async (tx: Tx): Promise<T> => {
        const before = replay && (await claimRequestId(tx, tenantId, call, replay.reference));
        if (replay !== undefined && before !== undefined) return replay.rebuild(tx, before);
        const result = await work(tx);
        if (change !== undefined) await recordChange(tx, { tenantId, ...change });
        xid = await insertAuditEntry(tx, tenantId, {
          entryId,
          call,
          resource,
          outcome: 'OK',
          detail,
        });
        return result;
      };
      const commit = async (connection: Connection): Promise<void> => {
        await finish(connection, call.deadline).catch(async (error: unknown) => {
          const known =
            connection.lost &&
            xid !== '' &&
            (await this.#wasCommitted(call, tenantId, xid, entryId));
          if (!known) throw error;
        });
      };
      try {
        const scope = { tenantId, asReconciler };
        const result = await this.#transaction(this.#calls, call, scope, workAndRecords, commit);
        if (call.audit !== undefined && xid !== '') call.audit.isWritten = true;
        return result;
      } catch (error) {
        if (attempt === TRIES || !mayRunAgain(error)) throw error;
        await delay(Math.random() * RETRY_JITTER_MS * attempt);
      }
    }
  }

  /**
   * One statement outside of any tenant, for the tables that all tenants share; of a tenant's it
   * sees no rows.
   */
  query<Row extends pg.QueryResultRow>(
    call: Deadline,
    text: string,
    values: readonly unknown[] = [],
  ): Promise<Row[]> {
    return statement(this.#calls, call, text, values);
  }

  /**
   * As {@link Store.query}, on the store's own connections. The statement must be one that may run
   * twice.
   */
  queryReserve<Row extends pg.QueryResultRow>(
    call: Deadline,
    text: string,
    values: readonly unknown[] = [],
  ): Promise<Row[]> {
    return statement(this.#reserve, call, text, values);
  }

  /**
   * One statement on the audit log's own connections, which no call takes. It is sent once: when
   * this throws, it isn't known whether it was done, unless Postgres itself refused it.
   */
  async append(call: Deadline, text: string, values: readonly unknown[]): Promise<void> {
    const connection = await this.#audit.acquire(call.deadline);
    try {
      await connection.query(text, values, call.deadline);
    } finally {
      connection.release();
    }
  }

  /** As {@link Store.reconcile}, on the audit log's own connections. */
  sequence<T>(call: Deadline, work: (tx: Tx) => Promise<T>): Promise<T> {
    return this.#transaction(this.#audit, call, { asReconciler: true }, work, (connection) =>
      finish(connection, call.deadline),
    );
  }

  async #transaction<T>(
    connections: Connections,
    call: Deadline,
    scope: Scope,
    work: (tx: Tx) => Promise<T>,
    commit: (connection: Connection) => Promise<void>,
  ): Promise<T> {
    const connection = await begin(connections, call, scope);
    let open = true;
    const tx: Tx = {
      async query<Row extends pg.QueryResultRow>(text: string, values: readonly unknown[] = []) {
        if (!open) throw new Error('the transaction has ended');
        return (await connection.query<Row>(text, values, call.deadline)).rows;
      },
    };
    try {
      const result = await work(tx).finally(() => {
        open = false;
      });
      await commit(connection);
      return result;
    } catch (error) {
      await connection.rollback();
      throw error;
    } finally {
      connection.release();
    }
  }

  // The entry itself is the proof that it was committed: after a fail-over the new server may have
  // given the same transaction id to another. Its status only tells when there's nothing to wait
  // for.
  async #wasCommitted(
    call: Call,
    tenantId: TenantId,
    xid: string,
    entryId: string,
  ): Promise<boolean> {
    const ask = async (tx: Tx): Promise<boolean | undefined> => {
      const [fate] = await tx.query<{ entered: boolean; status: string | null }>(
        `SELECT pg_xact_status($1::xid8) AS status,
                ${WAS_ENTERED} AS entered`,
        [xid, entryId],
      );
      if (fate?.entered) return true;
      return fate?.status === 'in progress' || fate?.status === 'committed' ? undefined : false;
    };
    while (millisecondsLeft(call.deadline) > 0) {
      const committed = await this.#transaction(
        this.#reserve,
        call,
        { tenantId, readOnly: true },
        ask,
        (connection) => finish(connection, call.deadline),
      ).catch(() => undefined);
      if (committed !== undefined) return committed;
      await delay(FATE_POLL_MS);
    }
    return false;
  }
}

/**
 * The reconciler's role; and that its statements walk indexes, whatever the statistics say. Those
 * lag behind exactly when a million rows have just been made or moved, and then a batch of 500 was
 * found by reading all of a key's rows: 150 µs of Postgres for a row instead of 20 (measured).
 */
const AS_RECONCILER = `SET LOCAL ROLE ${RECONCILER_ROLE}; SET LOCAL enable_seqscan = off;
    SET LOCAL enable_bitmapscan = off; SET LOCAL enable_sort = off;`;
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/**
 * A connection with an open transaction, bound to the tenant if there is one; without, it sees no
 * tenant's rows unless it is the reconciler's.
 *
 * One round trip, so the values stand in the text. Postgres is given time limits of its own: a
 * statement that waits for a lock doesn't notice that its client is gone, and a frozen process
 * would keep its locks. They end with the transaction, as whatever outlives it would reach the
 * pooler's next client.
 */
async function begin(
  connections: Connections,
  call: Deadline,
  { tenantId, readOnly = false, asReconciler = false }: Scope,
): Promise<Connection> {
  if (tenantId !== undefined && !UUID.test(tenantId))
    throw new Error('a tenant id that is no UUID');
  const limit = Math.min(Math.ceil(millisecondsLeft(call.deadline)) + SERVER_GRACE_MS, 2 ** 31 - 1);
  // READ WRITE goes unsaid: a standby refuses the word itself, with an SQLSTATE that tells nothing.
  const text = `BEGIN ISOLATION LEVEL READ COMMITTED ${readOnly ? 'READ ONLY' : ''};
    ${asReconciler ? AS_RECONCILER : ''}
    SELECT set_config('keyward.tenant_id', '${tenantId ?? ''}', true),
           set_config('statement_timeout', '${limit}', true),
           set_config('idle_in_transaction_session_timeout', '${limit}', true)`;
  for (let attempt = 1; ; attempt++) {
    const connection = await connections.acquire(call.deadline);
    try {
      await connection.query(text, [], call.deadline);
      return connection;
    } catch (error) {
      // A connection can have broken while idle without a word; nothing has been done on it yet.
      const again = connection.lost && attempt === 1;
      await connection.rollback();
      connection.release();
      if (!again) throw error;
    }
  }
}

/**
 * COMMIT. Postgres answers ROLLBACK, and no error, when a statement before had failed and that was
 * overlooked.
 */
async function finish(connection: Connection, deadline: number): Promise<void> {
  const { command } = await connection.query('COMMIT', [], deadline);
  if (command !== 'COMMIT') throw new Error('a failed transaction was to be committed');
}

async function statement<Row extends pg.QueryResultRow>(
  connections: Connections,
  call: Deadline,
  text: string,
  values: readonly unknown[],
): Promise<Row[]> {
  for (let attempt = 1; ; attempt++) {
    const connection = await connections.acquire(call.deadline);
    try {
      return (await connection.query<Row>(text, values, call.deadline)).rows;
    } catch (error) {
      if (!connection.lost || attempt > 1) throw error;
    } finally {
      connection.release();
    }
  }
}
