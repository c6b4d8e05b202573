/**
 * What a session of Postgres is like, whatever its server, database and role have set.
 *
 * - What changes how values or statements are read is set, and so is what no statement here wants:
 *   plans compiled by LLVM cost hundreds of milliseconds each and gain nothing (measured).
 * - It is to a server that accepts writes.
 * - {@link STARTUP} goes with the connection's first message: poolers know these, and give each of
 *   their own connections the same. The rest a connection is given once, when it is made, where a
 *   pooler in transaction mode keeps it for one of its connections only: docs/deployment.md has an
 *   operator set it in the role.
 */
import type pg from 'pg';

/** Settings that the connection's first message has. */
export const STARTUP: Readonly<Record<string, string>> = {
  DateStyle: 'ISO, YMD',
  TimeZone: 'UTC',
  standard_conforming_strings: 'on',
};

/** Settings that a connection is given before it is used. */
const SETTINGS: Readonly<Record<string, string>> = {
  array_nulls: 'on',
  bytea_output: 'hex',
  default_transaction_deferrable: 'off',
  default_transaction_isolation: 'read committed',
  extra_float_digits: '1',
  IntervalStyle: 'postgres',
  jit: 'off',
  row_security: 'on',
  // Temporary tables last: they would stand before ours else.
  search_path: 'public, pg_temp',
  transform_null_equals: 'off',
};

const SETTLE_MS = 5_000;
/** Whether the server accepts no writes: it is a standby, or was told to accept none. */
export const IS_READ_ONLY =
  "(pg_is_in_recovery() OR current_setting('default_transaction_read_only')::boolean)";
export const READ_ONLY = 'the database server accepts no writes';

const SETTLE = `SELECT ${IS_READ_ONLY} AS is_read_only, pg_backend_pid() AS pid, ${Object.entries(
  SETTINGS,
)
  .map(([name, value]) => `set_config('${name}', '${value}', false)`)
  .join(', ')}`;

/** pg reads `query_timeout` from a statement, its types don't say so. */
export type TimedQuery = pg.QueryConfig & { readonly query_timeout: number };

/**
 * Makes a new connection's session what the statements expect. Returns whether the session is the
 * connection's alone: a pooler tells of another process than the one that answers. Throws as pg
 * does, and where the server accepts no writes.
 */
export async function settleSession(client: pg.ClientBase): Promise<boolean> {
  const query = { text: SETTLE, query_timeout: SETTLE_MS };
  const { rows } = await client.query<{ is_read_only: boolean; pid: number }>(
    query satisfies TimedQuery,
  );
  if (rows[0]?.is_read_only !== false) throw new Error(READ_ONLY);
  return (client as { readonly processID?: number | null }).processID === rows[0].pid;
}
