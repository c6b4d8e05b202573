/**
 * What a failure of Postgres means to a caller: the one place that reads SQLSTATEs and pg's
 * messages.
 *
 * Everything that isn't named here is a fault of ours and stays what it was, so that it becomes
 * INTERNAL. Knows nothing of what the statement was for; names that are taken are found by
 * `ON CONFLICT`, not by catching errors.
 */
import pg from 'pg';
import { KeywardError, type Reason } from '../../errors.ts';

/**
 * Whole classes of SQLSTATE (appendix A of the PostgreSQL manual) after which the same statement
 * can succeed later.
 */
const UNAVAILABLE_CLASSES = ['08', '28', '53', '58'];

/** read_only_sql_transaction: a standby. */
const READ_ONLY_TRANSACTION = '25006';

const REASON_OF_STATE: Readonly<Record<string, Reason>> = {
  [READ_ONLY_TRANSACTION]: 'DATABASE_UNAVAILABLE',
  '25P03': 'DATABASE_UNAVAILABLE', // idle_in_transaction_session_timeout
  '40001': 'CONFLICT', // serialization_failure
  '40P01': 'CONFLICT', // deadlock_detected
  '55P03': 'CONFLICT', // lock_not_available
  '57014': 'DATABASE_UNAVAILABLE', // query_canceled: by an operator, our own time limit comes first
  '57P01': 'DATABASE_UNAVAILABLE', // admin_shutdown
  '57P02': 'DATABASE_UNAVAILABLE', // crash_shutdown
  '57P03': 'DATABASE_UNAVAILABLE', // cannot_connect_now
  '57P05': 'DATABASE_UNAVAILABLE', // idle_session_timeout
};

/** pg's own words when `query_timeout` has passed; it has no code for it. */
const QUERY_TIMED_OUT = 'Query read timeout';

/**
 * A failure of a statement as a KeywardError, or `error` itself when it is no known failure of the
 * database.
 */
export function fromDatabase(error: unknown, connectionLost: boolean): unknown {
  if (error instanceof KeywardError) return error;
  const reason = reasonOf(error, connectionLost);
  return reason === undefined ? error : new KeywardError(reason, { cause: error });
}

function reasonOf(error: unknown, connectionLost: boolean): Reason | undefined {
  if (error instanceof pg.DatabaseError) {
    const state = error.code ?? '';
    if (UNAVAILABLE_CLASSES.includes(state.slice(0, 2))) return 'DATABASE_UNAVAILABLE';
    return REASON_OF_STATE[state] ?? (endsConnection(error) ? 'DATABASE_UNAVAILABLE' : undefined);
  }
  if (error instanceof Error && error.message === QUERY_TIMED_OUT) return 'DEADLINE_EXCEEDED';
  return connectionLost ? 'DATABASE_UNAVAILABLE' : undefined;
}

/** Whether Postgres itself has refused a statement, so that it is certain that nothing was done. */
export function wasRefused(error: unknown): boolean {
  const cause = error instanceof KeywardError ? error.cause : error;
  return cause instanceof pg.DatabaseError && !endsConnection(cause);
}

/** Whether the server closes the connection after this error. */
export function endsConnection(error: pg.DatabaseError): boolean {
  return error.severity === 'FATAL' || error.severity === 'PANIC';
}

/**
 * Whether a server refused to write: a standby, or a primary that was told to. Also where a read
 * was to write, which is a fault of ours and costs a connection.
 */
export function isOfReadOnlyServer(error: pg.DatabaseError): boolean {
  return error.code === READ_ONLY_TRANSACTION;
}

/** What Postgres refuses where a session does not have the plan that it is asked for. */
const PLAN_STATES: readonly unknown[] = [
  '26000', // invalid_sql_statement_name: there is none
  '42P05', // duplicate_prepared_statement
  '0A000', // feature_not_supported: the table has other columns than when it was made
];

/** Whether a statement failed because of the plan that it was to be run by. */
export function isOfPlans(error: unknown): boolean {
  return error instanceof pg.DatabaseError && PLAN_STATES.includes(error.code);
}

/**
 * Whether the server undid the whole transaction only because of another one, so that it may be
 * tried again.
 */
export function mayRunAgain(error: unknown): boolean {
  const cause = error instanceof KeywardError ? error.cause : undefined;
  return cause instanceof pg.DatabaseError && (cause.code === '40001' || cause.code === '40P01');
}
