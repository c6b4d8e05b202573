/**
 * The schema: what docs/schema.sql says it is, and what every table of it must have.
 */
import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { after, before, it } from 'node:test';
import { describeSchema } from './catalog.ts';
import { migratedDatabase, type TestDatabase } from './database.ts';

const FILE = new URL('../../docs/schema.sql', import.meta.url);

let database: TestDatabase;

before(async () => {
  database = await migratedDatabase();
});

after(() => database[Symbol.asyncDispose]());

it('docs/schema.sql is what the migrations make (UPDATE=1 writes it)', async () => {
  const actual = await describeSchema(database);
  if (process.env['UPDATE'] === '1') await writeFile(FILE, actual);
  assert.equal(actual, await readFile(FILE, 'utf8'));
});

it('the tenant leads every primary key that a tenant has a part in', async () => {
  const rows = await database.sql<{ table: string; first: string }>(
    `SELECT c.conrelid::regclass::text AS table, a.attname AS first FROM pg_constraint c
       JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
     WHERE c.contype = 'p' AND c.connamespace = 'public'::regnamespace
       AND EXISTS (SELECT FROM pg_attribute t WHERE t.attrelid = c.conrelid AND t.attname = 'tenant_id')`,
  );
  assert.ok(rows.length >= 6);
  for (const { table, first } of rows) assert.equal(first, 'tenant_id', table);
});

it('every table with tenants’ rows is under row-level security, or is known not to be', async () => {
  const rows = await database.sql<{ table: string }>(
    `SELECT c.relname AS table FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
     WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
       AND NOT (c.relrowsecurity AND EXISTS (SELECT FROM pg_policy WHERE polrelid = c.oid))
     ORDER BY 1`,
  );
  const shared = [
    'alert_deliveries',
    'alert_silences',
    'alerts',
    'canary_seals',
    'changes',
    'maintenance',
    'passkeys',
    'replicas',
    'tenants',
    'token_key_seals',
    'token_objects',
    'tokens',
    'usage_reports',
  ];
  assert.deepEqual(
    rows.map((row) => row.table),
    shared,
  );
});

it('PUBLIC has no rights in the schema but to use it', async () => {
  const rows = await database.sql(
    `SELECT c.relname, g.privilege_type FROM pg_class c, aclexplode(c.relacl) g
     WHERE c.relnamespace = 'public'::regnamespace AND g.grantee = 0
     UNION ALL
     SELECT 'public', g.privilege_type FROM pg_namespace n, aclexplode(n.nspacl) g
     WHERE n.nspname = 'public' AND g.grantee = 0 AND g.privilege_type <> 'USAGE'`,
  );
  assert.deepEqual(rows, []);
});
