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
import { type Call, type Effect, millisecondsLeft, monotonicNow } from '../call.ts';
import { KeywardError, type Reason } from '../errors.ts';
import type { KeyId, TenantId } from '../ids.ts';
import { traced } from '../signals/tracing.ts';
import { appendStatement, insertAuditEntry, WAS_ENTERED } from './audit/audit.ts';
import { type InboxRow, NO_TENANT, type Stream, WriterStreams } from './audit/streams.ts';
import { type ChangeKind, recordChange } from './changes.ts';
import { parseAddress } from './core/address.ts';
import {
  type Connection,
  Connections,
  type PoolFigures,
  type StatementPlan,
} from './core/connections.ts';
import { isOfPlans, mayRunAgain, wasRefused } from './core/failure.ts';
import { checkDatabase } from './core/requirements.ts';
import { RECONCILER_ROLE } from './core/schema.ts';
import { Servers } from './core/servers.ts';
import { IS_READ_ONLY, READ_ONLY } from './core/session.ts';
import type { Changed, Deadline, MutationTx, Tx } from './core/transaction.ts';
import { claimRequestId, keepEffect } from './request-ids.ts';

const OPEN_MS = 10_000;
/** How often a transaction runs that Postgres undoes in favour of another one. */
const TRIES = 3;
const RETRY_JITTER_MS = 50;
/**
 * How long beyond the call's deadline a COMMIT that was sent is waited for, or asked about: its
 * caller was answered by then, and the call's entry is to say what became of it.
 */
const FATE_MS = 2_000;
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
/** For how long rows may fail to be added to the audit log's inbox before calls are not served. */
const APPEND_LATELY_MS = 1_500;

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
  /** How long a call waits for one of them while all are lent, in milliseconds. */
  readonly waitMs: number;
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
  /** The UUIDs that the audit entry has: of the resource's tenant, where it is another; its key. */
  readonly ids?: { readonly tenantId?: TenantId; readonly keyId?: KeyId };
  /**
   * Done with the reconciler's rights, because the service's don't suffice: erasing, never what a
   * caller asked for.
   */
  readonly asReconciler?: boolean;
  /** What the entry says came of the call, where that is not `OK`: what it asks for has to wait. */
  readonly outcome?: Reason;
}

/** How a transaction is opened. */
interface Scope {
  /** The tenant that it is bound to. */
  readonly tenantId?: TenantId;
  readonly readOnly?: boolean;
  readonly asReconciler?: boolean;
}

/** What is kept of a mutation to answer its request by when it comes again. */
export type KeptAnswer = Pick<Effect, 'answer' | 'reference'>;

export class Store {
  /** What proves the rows that this process adds to the audit log's inbox. */
  readonly streams = new WriterStreams();
  readonly #calls: Connections;
  readonly #reserve: Connections;
  readonly #audit: Connections;
  /** Since when every append has failed, and how the last one did; undefined after a good one. */
  #unappended: { readonly since: number; readonly error: unknown } | undefined;

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
    const { servers: all, display } = parseAddress(options.url, options.caFile);
    const servers = new Servers(all);
    const { waitMs, onError } = options;
    const connect = (size: number) => new Connections(servers, { size, waitMs }, onError);
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
   * Throws DATABASE_UNAVAILABLE or DEADLINE_EXCEEDED unless a Postgres answers that accepts writes.
   * Doesn't wait behind calls.
   */
  async ping(call: Deadline): Promise<void> {
    await this.queryPrimary(call, '1 AS alive');
  }

  /**
   * Reads one tenant's rows in one read-only transaction (READ COMMITTED).
   *
   * Throws DATABASE_UNAVAILABLE, DATABASE_POOL_EXHAUSTED (after `waitMs`), DEADLINE_EXCEEDED, and
   * what `work` throws.
   */
  read<T>(call: Deadline, tenantId: TenantId, work: (tx: Tx) => Promise<T>): Promise<T> {
    const scope = { tenantId, readOnly: true };
    return traced('store', 'read', () =>
      this.#transaction(this.#calls, call, scope, work, (connection) =>
        finish(connection, call.deadline),
      ),
    );
  }

  /**
   * As {@link Store.read}, but each statement of `work` is a transaction of its own and one round
   * trip, for what a call waits for. Values are UUIDs, names and whole numbers, as they stand in
   * the text.
   */
  readAlone<T>(call: Deadline, tenantId: TenantId, work: (tx: Tx) => Promise<T>): Promise<T> {
    return traced('store', 'read', () =>
      work({
        query: (text, values = []) => readStatement(this.#calls, call, tenantId, text, values),
      }),
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
    return traced('store', 'reconcile', () =>
      this.#transaction(this.#calls, call, { asReconciler: true }, work, (connection) =>
        finish(connection, call.deadline),
      ),
    );
  }

  /**
   * Changes one tenant's rows: `work`, the row in `changes` and the audit entry in one transaction
   * (READ COMMITTED).
   *
   * `work` may run up to three times, when Postgres undoes the transaction in favour of another; so
   * it does nothing besides its statements. When this returns, everything is durable. When it
   * throws, nothing was changed, unless the call's notes say that it is uncertain: then COMMIT was
   * sent, and Postgres has not said until {@link FATE_MS} after the deadline what became of it.
   *
   * With what was changed is kept, for a call with a request id, what it is answered with: the
   * result, unless `keptOf` says otherwise. Throws `RequestRepeated`, and runs no `work`, when
   * the request id has had its effect before.
   *
   * Throws as {@link Store.read}, CONFLICT, AUDIT_UNAVAILABLE, and what keeping throws.
   */
  async mutate<T>(
    call: Call,
    mutation: Mutation,
    work: (tx: MutationTx) => Promise<T>,
    keptOf: (result: T) => KeptAnswer = (content) => ({ answer: { content } }),
  ): Promise<T> {
    const { tenantId, change, resource, ids, asReconciler = false, outcome = 'OK' } = mutation;
    for (let attempt = 1; ; attempt++) {
      const entryId = randomUUID();
      const stream = this.streams.lend();
      let isUncertain = false;
      let xid = '';
      let changed: Changed | undefined;
      const workAndRecords = async (tx: Tx): Promise<T> => {
        await claimRequestId(tx, tenantId, call);
        const result = await work({
          ...tx,
          changed: (content) => {
            changed = { ...changed, ...content };
          },
        });
        if (change !== undefined) await recordChange(tx, { tenantId, ...change });
        if (call.idempotency !== undefined) {
          const effect = { tenantId, change, keyId: ids?.keyId, ...keptOf(result) };
          await keepEffect(tx, tenantId, call, await call.idempotency.keep(effect));
        }
        xid = await insertAuditEntry({ ...tx, stream }, tenantId, {
          entryId,
          call,
          resource,
          outcome,
          ids,
          changed,
        });
        return result;
      };
      const commit = async (connection: Connection): Promise<void> => {
        if (millisecondsLeft(call.deadline) === 0) throw new KeywardError('DEADLINE_EXCEEDED');
        await finish(connection, call.deadline + FATE_MS / 2).catch(async (error: unknown) => {
          if (wasRefused(error)) throw error;
          const fate = await this.#fateOf(outlasting(call), tenantId, xid, entryId);
          if (fate === true) return;
          isUncertain = fate === undefined;
          throw error;
        });
      };
      try {
        const scope = { tenantId, asReconciler };
        const result = await traced('store', 'mutate', () =>
          this.#transaction(this.#calls, call, scope, workAndRecords, commit),
        );
        if (call.audit !== undefined && xid !== '') call.audit.isWritten = true;
        stream.committed();
        return result;
      } catch (error) {
        // Of one whose COMMIT had no answer nobody knows; its stream is lent to nobody any more.
        if (!isUncertain) stream.undone();
        else if (call.audit !== undefined) call.audit.isUncertain = true;
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
    return traced('store', 'query', () => statement<Row>(this.#calls, call, text, values));
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
    return traced('store', 'query', () => statement<Row>(this.#reserve, call, text, values));
  }

  /**
   * As {@link Store.queryReserve}, a SELECT of these columns, by a server that accepts writes:
   * after a fail-over the former one may still answer.
   */
  queryPrimary<Row extends pg.QueryResultRow>(
    call: Deadline,
    selected: string,
    values: readonly unknown[] = [],
  ): Promise<Row[]> {
    const text = `SELECT ${IS_READ_ONLY} AS is_read_only, ${selected}`;
    return traced('store', 'query', () =>
      statement<Row & ReadOnly>(this.#reserve, call, text, values),
    );
  }

  /**
   * Adds rows to the audit log's inbox, all or none, on connections of the log's own, which no call
   * takes. It is sent once: when this throws, it isn't known whether it was done, unless Postgres
   * itself refused it. Throws AUDIT_UNAVAILABLE.
   */
  append(call: Deadline, rows: readonly InboxRow[]): Promise<void> {
    return traced('store', 'append', () => this.#append(call, this.streams.lend(), rows));
  }

  /**
   * Says of each stream that rests that it has no more rows than it has: so that one that was
   * dropped is missed though none comes after it.
   */
  async closeStreams(call: Deadline): Promise<void> {
    const closing = { tenantId: NO_TENANT, entryCount: 0, leaves: '' };
    // One after another: entries of calls must not wait for connections behind them.
    for (let left = this.streams.openCount; left > 0; left--) {
      const stream = this.streams.lendOpen();
      if (stream !== undefined) await this.#append(call, stream, [closing], true);
    }
    // Nobody may call while none can be recorded: so it is found out whether one can be again.
    if (this.#unappended !== undefined)
      await this.#append(call, this.streams.lend(), [closing], true);
  }

  /** How the connections are doing: of calls, of the store itself, and of the audit log. */
  get pools(): Readonly<Record<'calls' | 'reserve' | 'audit', PoolFigures>> {
    const [calls, reserve, audit] = [this.#calls, this.#reserve, this.#audit];
    return { calls: calls.figures, reserve: reserve.figures, audit: audit.figures };
  }

  /**
   * Why no row could be added to the audit log's inbox lately, as the database said it; undefined
   * while rows can be added.
   */
  get appendFailure(): unknown {
    const failing = this.#unappended;
    return failing !== undefined && monotonicNow() - failing.since >= APPEND_LATELY_MS
      ? failing.error
      : undefined;
  }

  async #append(
    call: Deadline,
    stream: Stream,
    rows: readonly InboxRow[],
    isLast = false,
  ): Promise<void> {
    let isSent = false;
    try {
      const connection = await this.#audit.acquire(call.deadline);
      try {
        const { text, values } = appendStatement(stream, rows);
        isSent = true;
        await connection.query(text, values, call.deadline);
      } finally {
        connection.release();
      }
      stream.committed({ isLast });
      this.#unappended = undefined;
    } catch (error) {
      this.#unappended = { since: this.#unappended?.since ?? monotonicNow(), error };
      if (!isSent || wasRefused(error)) stream.undone();
      throw error;
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

  // Undefined when nobody tells in time. The entry itself is the proof that it was committed: after
  // a fail-over the new server may have given the same transaction id to another. Its status only
  // tells when there's nothing to wait for.
  async #fateOf(
    call: Deadline,
    tenantId: TenantId,
    xid: string,
    entryId: string,
  ): Promise<boolean | undefined> {
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
    return undefined;
  }
}

/** Asks the call for its deadline each time: tests move it. */
function outlasting(call: Deadline): Deadline {
  return {
    get deadline() {
      return call.deadline + FATE_MS;
    },
  };
}

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
async function begin(connections: Connections, call: Deadline, scope: Scope): Promise<Connection> {
  const text = beginning(call, scope);
  for (let attempt = 1; ; attempt++) {
    const connection = await connections.acquire(call.deadline);
    try {
      const results = [await connection.query<ReadOnly>(text, [], call.deadline)].flat();
      requireWritable(connection, results.at(-1)?.rows ?? []);
      return connection;
    } catch (error) {
      // A connection can have broken while idle without a word, or its server have become a
      // standby; nothing has been done on it yet.
      const again = connection.lost && attempt === 1;
      await connection.rollback();
      connection.release();
      if (!again) throw error;
    }
  }
}

/** What opens a transaction; the last of its results is a {@link ReadOnly}. */
function beginning(
  call: Deadline,
  { tenantId, readOnly = false, asReconciler = false }: Scope,
): string {
  if (tenantId !== undefined && !UUID.test(tenantId))
    throw new Error('a tenant id that is no UUID');
  const limit = Math.min(Math.ceil(millisecondsLeft(call.deadline)) + SERVER_GRACE_MS, 2 ** 31 - 1);
  // READ WRITE goes unsaid: a standby refuses the word itself, with an SQLSTATE that tells nothing.
  return `BEGIN ISOLATION LEVEL READ COMMITTED ${readOnly ? 'READ ONLY' : ''};
    ${asReconciler ? `SET LOCAL ROLE ${RECONCILER_ROLE};` : ''}
    SELECT ${IS_READ_ONLY} AS is_read_only,
           set_config('keyward.tenant_id', '${tenantId ?? ''}', true),
           set_config('statement_timeout', '${limit}', true),
           set_config('idle_in_transaction_session_timeout', '${limit}', true)`;
}

/** One statement that reads a tenant's rows, with its transaction, as one text. */
async function readStatement<Row extends pg.QueryResultRow>(
  connections: Connections,
  call: Deadline,
  tenantId: TenantId,
  text: string,
  values: readonly unknown[],
): Promise<Row[]> {
  const literals = values.map(literal);
  const stated = text.replaceAll(/\$(\d+)/g, (_, number) => literals[Number(number) - 1] ?? '');
  for (let attempt = 1; ; attempt++) {
    const connection = await connections.acquire(call.deadline);
    const plan = attempt === 1 ? connection.planOf(text) : undefined;
    const read = plan === undefined ? [stated] : executed(plan, literals);
    const begun = beginning(call, { tenantId, readOnly: true });
    try {
      const all = [begun, ...read, 'COMMIT'].join('; ');
      const results = [await connection.query(all, [], call.deadline)].flat();
      if (plan !== undefined) connection.keepPlan(plan.name);
      const start = results.at(-2 - read.length);
      requireWritable(connection, (start?.rows ?? []) as ReadOnly[]);
      return (results.at(-2)?.rows ?? []) as Row[];
    } catch (error) {
      await connection.rollback();
      if (plan !== undefined) connection.doubtPlans();
      const again = connection.lost || (plan !== undefined && isOfPlans(error));
      if (!again || attempt > 1) throw error;
    } finally {
      connection.release();
    }
  }
}

/** What reads by a plan, which Postgres takes longer to make than to run. */
function executed({ name, first }: StatementPlan, literals: readonly string[]): string[] {
  const execute = `EXECUTE ${name} ${literals.length > 0 ? `(${literals.join(', ')})` : ''}`;
  return first === undefined ? [execute] : [first, execute];
}

/** UUIDs and names: nothing in them means anything to SQL. */
const PLAIN = /^[0-9a-z-]*$/;

function literal(value: unknown): string {
  if (Number.isSafeInteger(value)) return String(value);
  if (typeof value !== 'string' || !PLAIN.test(value))
    throw new Error('a value that is no UUID, name or whole number');
  return `'${value}'`;
}

/** The column that says that a server accepts no writes. */
interface ReadOnly {
  readonly is_read_only?: boolean;
}

/** Throws DATABASE_UNAVAILABLE where the first row says so, and has the connection be dropped. */
function requireWritable(connection: Connection, [first]: readonly ReadOnly[]): void {
  if (first?.is_read_only !== true) return;
  connection.distrust();
  throw new KeywardError('DATABASE_UNAVAILABLE', { cause: new Error(READ_ONLY) });
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
      const { rows } = await connection.query<Row>(text, values, call.deadline);
      requireWritable(connection, rows);
      return rows;
    } catch (error) {
      if (!connection.lost || attempt > 1) throw error;
    } finally {
      connection.release();
    }
  }
}
