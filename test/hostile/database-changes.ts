/**
 * Every change of a single row that the schema allows a writer of the database: of each column, a
 * deletion, a swap with another row; made, announced to replicas as the service would, and undone.
 *
 * Only tables whose rows decide something and that nothing writes while nothing changes; what the
 * service writes all the time, the audit log above all, has tests of its own. Knows no caller.
 */
import type { Environment } from '../support/kit.ts';
import { sql } from '../support/reconciling.ts';

const TABLES = [
  ...['access_policies', 'data_keys', 'key_versions', 'keys', 'maintenance', 'role_bindings'],
  ...['roles', 'tenants', 'token_key_seals', 'token_objects', 'tokens'],
  ...['approval_rules', 'passkeys', 'pending_operations'],
] as const;

/** What states and kinds can be, for columns that hold one. */
const WORDS: Readonly<Record<string, readonly string[]>> = {
  'keys.state': ['ENABLED', 'DISABLED', 'DESTROY_SCHEDULED'],
  'key_versions.state': ['ENABLED', 'DISABLED', 'DESTROY_SCHEDULED'],
  'tenants.state': ['ENABLED', 'DISABLED'],
  'pending_operations.state': ['APPROVED', 'DONE', 'REJECTED'],
  'token_objects.state': ['CREATED', 'RETIRED', 'ABANDONED', 'DESTROYING'],
  'tokens.state': ['NEXT'],
  'role_bindings.member_kind': ['principal', 'group'],
  'role_bindings.role': ['roles/keyAdmin', 'roles/tenantAdmin'],
  'role_bindings.key_pattern': ['', 'k*'],
};

/** One change. */
export interface RowChange {
  /** In words, for a test's message. */
  readonly what: string;
  readonly table: string;
  readonly statement: string;
}

interface Column {
  readonly name: string;
  readonly type: string;
}

/** Keeps the tables as they are now, for {@link undo}, and lists the changes of all their rows. */
export async function listChanges(environment: Environment): Promise<RowChange[]> {
  const changes: RowChange[] = [];
  for (const table of TABLES) {
    await sql(environment, `CREATE TABLE saved_${table} AS SELECT * FROM ${table}`);
    const columns = await columnsOf(environment, table);
    const key = await keyOf(environment, table);
    const rows = await sql<{ id: string }>(
      environment,
      `SELECT ${key} AS id FROM ${table} r ORDER BY 1`,
    );
    for (const [index, { id }] of rows.entries())
      changes.push(...changesOf(table, key, columns, id, rows[index + 1]?.id));
  }
  return changes;
}

function* changesOf(
  table: string,
  key: string,
  columns: readonly Column[],
  id: string,
  next: string | undefined,
): Iterable<RowChange> {
  const row = `${table} ${id}`;
  const where = `WHERE ${key} = '${id}'`;
  for (const column of columns)
    for (const value of valuesFor(table, column)) {
      const set = `${column.name} = ${value}`;
      yield { table, what: `${row}: ${set}`, statement: `UPDATE ${table} r SET ${set} ${where}` };
    }
  yield { table, what: `${row}: deleted`, statement: `DELETE FROM ${table} r ${where}` };
  if (next === undefined) return;
  const names = namesOf(columns);
  const other = `CASE WHEN ${key} = '${id}' THEN '${next}' ELSE '${id}' END`;
  const values = `SELECT ${names} FROM saved_${table} s WHERE ${key.replaceAll('r.', 's.')} = ${other}`;
  const statement = `UPDATE ${table} r SET (${names}) = (${values}) WHERE ${key} IN ('${id}', '${next}')`;
  yield { table, what: `${row}: swapped with ${next}`, statement };
}

/** Makes a change; returns false, having changed nothing, where the schema does not allow it. */
export async function make(environment: Environment, change: RowChange): Promise<boolean> {
  try {
    await sql(environment, `${change.statement}; ${ANNOUNCE}`);
    return true;
  } catch (error) {
    // A constraint, or a value that is none.
    if (/^(22|23)/.test(String((error as { code?: unknown }).code))) return false;
    throw error;
  }
}

/** Puts the table back as it was. */
export async function undo(environment: Environment, { table }: RowChange): Promise<void> {
  const names = namesOf(await columnsOf(environment, table));
  await sql(
    environment,
    `SET session_replication_role = replica; DELETE FROM ${table};
     INSERT INTO ${table} (${names}) SELECT ${names} FROM saved_${table};
     SET session_replication_role = DEFAULT; ${ANNOUNCE}`,
  );
}

/** Has every replica read everything again, as if all had changed. */
const ANNOUNCE = `INSERT INTO changes (tenant_id, kind, subject_id)
    SELECT tenant_id, kind, tenant_id FROM saved_tenants,
      unnest(ARRAY['tenant', 'access', 'approvalRules']) AS kind;
  INSERT INTO changes (tenant_id, kind, subject_id) SELECT tenant_id, 'key', key_id FROM saved_keys;
  INSERT INTO changes (tenant_id, kind, subject_id)
    SELECT tenant_id, 'token', tenant_id FROM saved_tenants WHERE name = 'system'`;

/** Its columns, but for those that are computed from others. */
function columnsOf(environment: Environment, table: string): Promise<Column[]> {
  return sql<Column & Record<string, unknown>>(
    environment,
    `SELECT attname AS name, format_type(atttypid, NULL) AS type FROM pg_attribute
     WHERE attrelid = '${table}'::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
     ORDER BY attnum`,
  );
}

function namesOf(columns: readonly Column[]): string {
  return columns.map(({ name }) => name).join(', ');
}

/** The primary key of a row `r` as one text. */
async function keyOf(environment: Environment, table: string): Promise<string> {
  const rows = await sql<{ name: string }>(
    environment,
    `SELECT a.attname AS name FROM pg_index i
       JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
     WHERE i.indrelid = '${table}'::regclass AND i.indisprimary ORDER BY a.attnum`,
  );
  return `concat_ws('/', ${rows.map(({ name }) => `r.${name}`).join(', ')})`;
}

/** What somebody makes of a column, as SQL. */
function valuesFor(table: string, { name, type }: Column): readonly string[] {
  const words = WORDS[`${table}.${name}`];
  if (words !== undefined) return words.map((word) => `'${word}'`);
  const another = `(SELECT ${name} FROM saved_${table} s WHERE s.${name} IS DISTINCT FROM r.${name} ORDER BY 1 LIMIT 1)`;
  switch (type) {
    case 'boolean':
      return [`NOT r.${name}`];
    case 'integer':
    case 'smallint':
    case 'bigint':
      return [`coalesce(r.${name}, 0) + 1`, `r.${name} - 1`];
    case 'uuid':
      return [`coalesce(${another}, gen_random_uuid())`, 'gen_random_uuid()'];
    case 'bytea':
      return [another, `set_byte(r.${name}, 0, get_byte(r.${name}, 0) # 1)`];
    case 'timestamp with time zone':
      return [`coalesce(r.${name}, now()) - interval '1 day'`];
    case 'text[]':
      return [`r.${name} || '{data.decrypt}'`];
    case 'jsonb':
      return [`CASE jsonb_typeof(r.${name}) WHEN 'array' THEN '[]'::jsonb ELSE '{}' END`];
    default:
      return [another, `r.${name} || 'x'`];
  }
}
