/**
 * An open transaction, as what reads and writes rows sees it.
 */
import type pg from 'pg';
import type { Call } from '../../call.ts';

/** What a read needs of a call. */
export type Deadline = Pick<Call, 'deadline'>;

/** An open transaction; good until the work that got it has ended. */
export interface Tx {
  /** Runs one statement and returns its rows. Throws as `failure.ts` says. */
  query<Row extends pg.QueryResultRow>(text: string, values?: readonly unknown[]): Promise<Row[]>;
}

/** Runs single statements beside the pool, on connections that no call waits for. */
export interface Reserve {
  queryReserve<Row extends pg.QueryResultRow>(
    call: Deadline,
    text: string,
    values?: readonly unknown[],
  ): Promise<Row[]>;
}

/** Runs the statement that appends to the audit log, on connections of the log's own. */
export interface Appends {
  append(call: Deadline, text: string, values: readonly unknown[]): Promise<void>;
}

/** Runs one statement: a transaction's, the store's or the owner's. */
export type Query = <R extends object>(text: string, values?: readonly unknown[]) => Promise<R[]>;
