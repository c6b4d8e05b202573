/**
 * Sessions, on databases whose roles have other settings than the statements expect.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { withOwnerConnection } from '../../src/store/core/owner.ts';
import type { Store } from '../../src/store/store.ts';
import { callOf, migratedDatabase, OWNER, SERVICE, systemTenant } from './database.ts';

/** Has the roles of a database begin their sessions with a setting. */
async function setInRoles(
  database: Awaited<ReturnType<typeof migratedDatabase>>,
  settings: Readonly<Record<string, string>>,
): Promise<void> {
  for (const role of [SERVICE, OWNER])
    for (const [name, value] of Object.entries(settings))
      await database.sql(`ALTER ROLE ${role} IN DATABASE ${database.name} SET ${name} = ${value}`);
}

/** Runs a statement in each of the ways in which the service runs any. */
async function runInEveryWay<Row extends object>(
  store: Store,
  tenantId: Awaited<ReturnType<typeof systemTenant>>,
  text: string,
): Promise<Readonly<Record<string, Row[]>>> {
  const call = callOf();
  return {
    'a statement': await store.query<Row>(call, text),
    'a statement beside the pool': await store.queryReserve<Row>(call, text),
    'a read of a tenant’s': await store.read(call, tenantId, (tx) => tx.query<Row>(text)),
    'a mutation': await store.mutate(call, { tenantId, resource: 'x' }, (tx) =>
      tx.query<Row>(text),
    ),
    'automatic work': await store.reconcile(call, (tx) => tx.query<Row>(text)),
    'the audit log’s': await store.sequence(call, (tx) => tx.query<Row>(text)),
  };
}

test('plans are compiled by no session, and their cost is not bent, on a server that compiles all', async () => {
  await using database = await migratedDatabase();
  await setInRoles(database, { jit: 'on', jit_above_cost: '0' });
  const store = await database.open();
  try {
    const seen = await runInEveryWay<{ jit: string; bent: string[] }>(
      store,
      await systemTenant(database),
      `SELECT current_setting('jit') AS jit, ARRAY(
         SELECT name FROM pg_settings WHERE name LIKE 'enable\\_%' AND setting <> reset_val) AS bent`,
    );
    for (const [way, rows] of Object.entries(seen))
      assert.deepEqual(rows, [{ jit: 'off', bent: [] }], way);
  } finally {
    await store.close();
  }
});

/** What servers, databases and roles may have set, and what a statement then reads. */
const STRANGE: Readonly<Record<string, string>> = {
  array_nulls: 'off',
  bytea_output: 'escape',
  DateStyle: "'SQL, DMY'",
  default_transaction_deferrable: 'on',
  default_transaction_isolation: "'serializable'",
  extra_float_digits: '-15',
  IntervalStyle: "'sql_standard'",
  row_security: 'off',
  search_path: "'elsewhere'",
  standard_conforming_strings: 'off',
  TimeZone: "'Asia/Kathmandu'",
  transform_null_equals: 'on',
};
const READ = `SELECT '2026-03-04T05:06:07.089Z'::timestamptz AS at, 9007199254740991::float8 AS number,
  '\\x00ff'::bytea AS bytes, '{NULL}'::text[] AS names, (NULL = NULL) IS NULL AS unknown,
  (SELECT count(*)::integer FROM tenants) AS tenants, '2026-03-28T12:00:00Z'::timestamptz::text AS text,
  current_setting('transaction_isolation') AS isolation`;
const EXPECTED = {
  at: new Date('2026-03-04T05:06:07.089Z'),
  number: 9007199254740991,
  bytes: Buffer.from([0, 255]),
  names: [null],
  unknown: true,
  tenants: 1,
  text: '2026-03-28 12:00:00+00',
  isolation: 'read committed',
};

test('values are read and written the same, whatever the roles have set for their sessions', async () => {
  await using database = await migratedDatabase();
  const systemId = await systemTenant(database);
  await setInRoles(database, STRANGE);
  const store = await database.open();
  try {
    const seen = await runInEveryWay(store, systemId, READ);
    for (const [way, rows] of Object.entries(seen)) assert.deepEqual(rows, [EXPECTED], way);
    await withOwnerConnection(database.url(OWNER), undefined, async (owner) => {
      assert.deepEqual(await owner.query(READ), [EXPECTED]);
    });
  } finally {
    await store.close();
  }
});

test('bytes of a row share their memory with nothing, which would be kept for as long as they', async () => {
  await using database = await migratedDatabase();
  const store = await database.open();
  try {
    const seen = await runInEveryWay<{ some: Buffer; none: Buffer; nothing: null }>(
      store,
      await systemTenant(database),
      "SELECT '\\x00ff80'::bytea AS some, ''::bytea AS none, NULL::bytea AS nothing",
    );
    for (const [way, [row]] of Object.entries(seen)) {
      assert.deepEqual(
        { ...row },
        { some: Buffer.of(0, 255, 128), none: Buffer.of(), nothing: null },
      );
      assert.equal(row?.some.buffer.byteLength, 3, way);
    }
  } finally {
    await store.close();
  }
});
