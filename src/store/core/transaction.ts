/**
 * An open transaction, as what reads and writes rows sees it.
 */
import type pg from 'pg';
import type { Call } from '../../call.ts';
import type { InboxRow } from '../audit/streams.ts';

/** What a read needs of a call. */
export type Deadline = Pick<Call, 'deadline'>;

/** An open transaction; good until the work that got it has ended. */
export interface Tx {
  /** Runs one statement and returns its rows. Throws as `failure.ts` says. */
  query<Row extends pg.QueryResultRow>(text: string, values?: readonly unknown[]): Promise<Row[]>;
}

/** What an audit entry says of a change: what it was of, as it was before, and as it is after. */
export interface Changed {
  readonly kind:
    | 'alertSilence'
    | 'approvalRules'
    | 'auditLog'
    | 'canary'
    | 'configuration'
    | 'dataKey'
    | 'key'
    | 'maintenance'
    | 'passkey'
    | 'pendingOperation'
    | 'rewrapJob'
    | 'role'
    | 'roleBinding'
    | 'suspension'
    | 'tenant'
    | 'token'
    | 'tokenKey';
  /** Absent where it was not there. */
  readonly before?: object | undefined;
  /** Absent where it is not there any more. */
  readonly after?: object | undefined;
  /** Of a key: those of its versions that were changed. */
  readonly versions?: readonly object[] | undefined;
  /** Of a key that was rotated: why. */
  readonly cause?: string | undefined;
  /** How many stored data keys went with it. */
  readonly storedDataKeys?: number | undefined;
  /** Of what a policy consists of: the policy's revision after the change. */
  readonly policyRevision?: string | undefined;
  /** Of a canary or a suspension: the revision of all of them after the change. */
  readonly canaryRevision?: string | undefined;
  /** Of approval rules: their revision after the change. */
  readonly rulesRevision?: string | undefined;
}

/** The transaction of a mutation. */
export interface MutationTx extends Tx {
  /** Says what was changed, for the audit entry; adds to what was said before. */
  changed(content: Changed): void;
}

/** Runs single statements beside the pool, on connections that no call waits for. */
export interface Reserve {
  queryReserve<Row extends pg.QueryResultRow>(
    call: Deadline,
    text: string,
    values?: readonly unknown[],
  ): Promise<Row[]>;
}

/** Asks the server that accepts writes; see `Store.queryPrimary`. */
export interface Primary {
  queryPrimary<Row extends pg.QueryResultRow>(
    call: Deadline,
    selected: string,
    values?: readonly unknown[],
  ): Promise<Row[]>;
}

/** Appends rows to the audit log's inbox, on connections of the log's own. */
export interface Appends {
  append(call: Deadline, rows: readonly InboxRow[]): Promise<void>;
}

/** Runs one statement: a transaction's, the store's or the owner's. */
export type Query = <R extends object>(text: string, values?: readonly unknown[]) => Promise<R[]>;
