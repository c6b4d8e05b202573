/**
 * What a database must be before anything is served from it.
 *
 * Each check that fails is one sentence for the operator: what is wrong and what to do. Nothing is
 * put right here, and nothing here is needed again once the store is open.
 */
import { compareReleases, migrationNames, RECONCILER_ROLE, SERVICE_ROLE } from './schema.ts';
import type { Deadline, Reserve } from './transaction.ts';

const OLDEST_POSTGRES = 15;
const UNDER_ROW_SECURITY = [
  'access_policies',
  'approval_rules',
  'audit_inbox',
  'audit_log',
  'data_keys',
  'key_version_usage',
  'key_versions',
  'keys',
  'operation_decisions',
  'pending_operations',
  'request_ids',
  'rewrap_failures',
  'rewrap_jobs',
  'rewrap_ranges',
  'role_bindings',
  'roles',
  'rotations',
  'tenant_counts',
];

/** Throws an Error for the first requirement that isn't met. */
export async function checkDatabase(
  store: Reserve,
  call: Deadline,
  release: string,
): Promise<void> {
  await checkServer(store, call);
  await checkRole(store, call);
  await checkSchema(store, call, release);
  await checkRowSecurity(store, call);
}

async function checkServer(store: Reserve, call: Deadline): Promise<void> {
  const [server] = await store.queryReserve<{ version: number; fsync: string; commit: string }>(
    call,
    `SELECT current_setting('server_version_num')::integer / 10000 AS version, current_setting('fsync') AS fsync,
            current_setting('synchronous_commit') AS commit`,
  );
  if (server === undefined || server.version < OLDEST_POSTGRES) {
    throw new Error(
      `cannot use the database: PostgreSQL ${server?.version} is too old; use ${OLDEST_POSTGRES} or later`,
    );
  }
  if (server.fsync !== 'on') {
    throw new Error(
      'cannot use the database: it runs with fsync off and can lose keys that callers already use; turn fsync on',
    );
  }
  if (server.commit === 'off') {
    throw new Error(
      'cannot use the database: it runs with synchronous_commit off for this role and can lose keys that callers already use; ' +
        'turn it on',
    );
  }
}

interface RolePowers {
  role: string;
  serves: boolean;
  reconciles: boolean;
  always_reconciles: boolean;
  superuser: boolean;
  unbound: string[];
  owners: string[];
  owns_database: boolean;
}

// Membership counts, not only inheritance: whoever is a member can SET ROLE, unless since release
// 16 it was granted without that. session_user, since RESET ROLE goes there.
const SELECT_POWERS = `SELECT session_user::text AS role,
  EXISTS (SELECT FROM pg_roles WHERE rolname = $1 AND pg_has_role(current_user, oid, 'USAGE')) AS serves,
  EXISTS (SELECT FROM pg_roles WHERE rolname = $2 AND pg_has_role(session_user, oid,
    CASE WHEN current_setting('server_version_num')::integer < 160000 THEN 'MEMBER' ELSE 'SET' END)) AS reconciles,
  EXISTS (SELECT FROM pg_roles WHERE rolname = $2 AND pg_has_role(current_user, oid, 'USAGE')) AS always_reconciles,
  (SELECT rolsuper FROM pg_roles WHERE rolname = session_user) AS superuser,
  ARRAY (SELECT rolname::text FROM pg_roles
         WHERE (rolsuper OR rolbypassrls) AND pg_has_role(session_user, oid, 'MEMBER')) AS unbound,
  ARRAY (SELECT DISTINCT pg_get_userbyid(relowner)::text FROM pg_class
         WHERE relnamespace = 'public'::regnamespace AND pg_has_role(session_user, relowner, 'MEMBER')) AS owners,
  (SELECT pg_has_role(session_user, datdba, 'MEMBER') FROM pg_database WHERE datname = current_database())
    AS owns_database`;

async function checkRole(store: Reserve, call: Deadline): Promise<void> {
  const [powers] = await store.queryReserve<RolePowers>(call, SELECT_POWERS, [
    SERVICE_ROLE,
    RECONCILER_ROLE,
  ]);
  if (powers === undefined)
    throw new Error('cannot use the database: it returns nothing about its roles');
  const instead = `connect as ${SERVICE_ROLE}, or as a login role that is a member of it and of nothing else`;
  const refuse = (why: string): never => {
    throw new Error(`cannot use the database: the role ${powers.role} ${why}; ${instead}`);
  };
  if (powers.superuser) refuse('is a superuser, so row-level security does not bind it');
  if (powers.unbound.length > 0) {
    refuse(
      `is, or may become, ${powers.unbound.join(', ')}, which row-level security does not bind (BYPASSRLS)`,
    );
  }
  if (powers.owners.length > 0) {
    refuse(
      `is, or may become, ${powers.owners.join(', ')}, the owner of the tables, which their policies do not bind`,
    );
  }
  if (powers.owns_database) refuse('owns the database, and so can drop its content');
  if (!powers.serves) refuse(`is not a member of ${SERVICE_ROLE}`);
  // The policies that show it all tenants' rows hold for whoever has the role's rights without
  // asking for them.
  if (powers.always_reconciles) {
    throw new Error(
      `cannot use the database: the role ${powers.role} always has the rights of ${RECONCILER_ROLE}, and with them sees every ` +
        `tenant's rows; run: REVOKE ${RECONCILER_ROLE} FROM ${SERVICE_ROLE}; ALTER ROLE ${SERVICE_ROLE} NOINHERIT; ` +
        `GRANT ${RECONCILER_ROLE} TO ${SERVICE_ROLE};`,
    );
  }
  if (!powers.reconciles) {
    throw new Error(
      `cannot use the database: the role ${powers.role} may not become ${RECONCILER_ROLE}; run: ` +
        `REVOKE ${RECONCILER_ROLE} FROM ${SERVICE_ROLE}; GRANT ${RECONCILER_ROLE} TO ${SERVICE_ROLE};`,
    );
  }
}

/**
 * Throws Error, in words for the operator, for a schema that this release may not use, and what the
 * store throws.
 */
export async function checkSchema(store: Reserve, call: Deadline, release: string): Promise<void> {
  const [exists] = await store.queryReserve<{ present: boolean }>(
    call,
    "SELECT to_regclass('public.schema_releases') IS NOT NULL AS present",
  );
  const rows = exists?.present
    ? await store.queryReserve<{ migration: string; oldest_release: string }>(
        call,
        'SELECT migration, oldest_release FROM schema_releases ORDER BY migration',
      )
    : [];
  for (const { migration, oldest_release: oldest } of rows) {
    if (compareReleases(release, oldest) < 0) {
      throw new Error(
        `cannot use the database: its schema has migration ${migration}, which needs release ${oldest} or later; ` +
          `this is ${release}; run a newer release`,
      );
    }
  }
  const applied = new Set(rows.map((row) => row.migration));
  const missing = (await migrationNames()).filter((name) => !applied.has(name));
  if (missing.length > 0) {
    throw new Error(
      `cannot use the database: its schema is older than this release (not applied: ${missing.join(', ')}); ` +
        'run `keyward-server migrate` with MIGRATION_DATABASE_URL',
    );
  }
}

async function checkRowSecurity(store: Reserve, call: Deadline): Promise<void> {
  const rows = await store.queryReserve<{ name: string }>(
    call,
    'SELECT name FROM unnest($1::text[]) AS name WHERE NOT row_security_active(name)',
    [UNDER_ROW_SECURITY],
  );
  if (rows.length > 0) {
    const names = rows.map((row) => row.name).join(', ');
    throw new Error(
      `cannot use the database: row-level security is off for ${names}; turn it on: ALTER TABLE … ENABLE ROW LEVEL SECURITY`,
    );
  }
}
