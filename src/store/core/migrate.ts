/**
 * Brings a database's schema up to this release.
 *
 * Run as often and by as many at once as one likes: one migrates, the others wait and find nothing
 * left to do. All of a run is one transaction. What the migrations say is theirs; whether a schema
 * may be served from is `requirements.ts`'s.
 */
import type pg from 'pg';
import { withOwnerClient } from './owner.ts';
import { MIGRATIONS_DIRECTORY, migrationNames, RECONCILER_ROLE, SERVICE_ROLE } from './schema.ts';

export interface MigrateOptions {
  /** Of the role that owns the schema, straight to the server. */
  readonly url: string;
  readonly caFile?: string;
  /** Hears what is done, and what goes wrong with which statement. */
  log(message: string): void;
}

/**
 * Applies what isn't applied yet, and returns the names of what it applied.
 *
 * @throws Error, in words for the operator, when the service's role is missing or is the one that
 * migrates; and Postgres's own errors. Then nothing was applied.
 */
export function migrate(options: MigrateOptions): Promise<string[]> {
  return withOwnerClient(options.url, options.caFile, async (client) => {
    await checkRoles(client);
    if (await isUpToDate(client)) return [];
    // Here and not above: serving starts 24 ms sooner without it.
    const { runner } = await import('node-pg-migrate');
    const applied = await runner({
      dbClient: client,
      dir: MIGRATIONS_DIRECTORY,
      ignorePattern: '(?!.*\\.sql$).*',
      direction: 'up',
      migrationsTable: 'schema_migrations',
      schema: 'public',
      singleTransaction: true,
      // Branches that are merged bring migrations between those that have run already.
      checkOrder: false,
      // Otherwise all but one of those that run at once fail.
      advisoryLockMode: 'wait',
      logger: { info: () => {}, warn: options.log, error: options.log },
    });
    const names = applied.map((migration) => migration.name);
    for (const name of names) options.log(`applied migration ${name}`);
    return names;
  });
}

/** What an administrator of the database server runs before the first migration, role by role. */
const CREATE_ROLE: Readonly<Record<string, string>> = {
  [SERVICE_ROLE]: `CREATE ROLE ${SERVICE_ROLE} LOGIN NOINHERIT NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE;`,
  [RECONCILER_ROLE]:
    `CREATE ROLE ${RECONCILER_ROLE} NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE; ` +
    `GRANT ${RECONCILER_ROLE} TO ${SERVICE_ROLE};`,
};

async function checkRoles(client: pg.Client): Promise<void> {
  const { rows } = await client.query<{ role: string; is_self: boolean; exists: boolean }>(
    `SELECT role, role = current_user AS is_self, EXISTS (SELECT FROM pg_roles WHERE rolname = role) AS exists
     FROM unnest($1::text[]) AS role`,
    [Object.keys(CREATE_ROLE)],
  );
  for (const { role, is_self: isSelf, exists } of rows) {
    if (!exists) {
      throw new Error(
        `cannot migrate: the role ${role} does not exist; as an administrator of the database server, run: ${CREATE_ROLE[role]}`,
      );
    }
    if (isSelf)
      throw new Error(
        `cannot migrate: the role ${role} must not own the schema; migrate as another role`,
      );
  }
}

async function isUpToDate(client: pg.Client): Promise<boolean> {
  const { rows } = await client.query<{ present: boolean }>(
    "SELECT to_regclass('public.schema_releases') IS NOT NULL AS present",
  );
  if (rows[0]?.present !== true) return false;
  const applied = await client.query<{ migration: string }>(
    'SELECT migration FROM schema_releases',
  );
  const names = new Set(applied.rows.map((row) => row.migration));
  return (await migrationNames()).every((name) => names.has(name));
}
