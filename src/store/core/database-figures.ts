/**
 * What the database says of itself, for operators.
 */
import type { Tx } from './transaction.ts';

/** The database, as operators are told of it. */
export interface DatabaseFigures {
  /** PostgreSQL's release. */
  readonly version: string;
  /** The newest migration that was applied. */
  readonly migration: string;
}

/** Returns what the database says of itself. */
export async function findDatabaseFigures(tx: Tx): Promise<DatabaseFigures> {
  const [figures] = await tx.query<DatabaseFigures & Record<string, unknown>>(
    `SELECT split_part(current_setting('server_version'), ' ', 1) AS version,
       (SELECT max(migration) FROM schema_releases) AS migration`,
  );
  if (figures === undefined) throw new Error('the database says nothing of itself');
  return figures;
}
