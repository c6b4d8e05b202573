/**
 * How many rows Postgres reads for the statements of maintenance, by its own counts, while its
 * statistics are of another time.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type KeyId, newId, type TenantId } from '../../src/ids.ts';
import { insertKey } from '../../src/store/keys/keys.ts';
import { findDue } from '../../src/store/lifecycle/maintenance.ts';
import { planDataKeys, readDataKeys } from '../../src/store/lifecycle/stale-data-keys.ts';
import {
  callOf,
  migratedDatabase,
  newTenant,
  SAMPLE_SEAL,
  SETTINGS,
  sampleVersion,
  type TestDatabase,
} from './database.ts';

const COUNT = 20_000;
const BATCH = 500;
/** What one batch may cost: itself, and what is looked up besides. */
const FEW = 4 * BATCH;

/** What Postgres believed when it last looked at a table, before the rows came that are there. */
const BELIEFS = {
  nothing: async (_database: TestDatabase) => {},
  'that it is empty': async (database: TestDatabase) => {
    await database.sql('ANALYZE data_keys, keys');
  },
  'that another key has a few': async (database: TestDatabase) => {
    await insertDataKeys(database, await otherKey(database), 100);
    await database.sql('ANALYZE data_keys, keys');
  },
} as const;

/** How many rows of a table were read, once nothing that has read is connected. */
async function rowsRead(database: TestDatabase, table: string): Promise<number> {
  const [row] = await database.sql<{ count: number }>(
    `SELECT (seq_tup_read + coalesce(idx_tup_fetch, 0))::integer AS count
     FROM pg_stat_user_tables WHERE relname = $1`,
    [table],
  );
  return row?.count ?? 0;
}

interface OfKey {
  readonly tenantId: TenantId;
  readonly keyId: KeyId;
}

async function otherKey(database: TestDatabase): Promise<OfKey> {
  const ids = { tenantId: await newTenant(database, 'other'), keyId: newId<KeyId>() };
  await addKey(database, ids);
  return ids;
}

async function addKey(database: TestDatabase, { tenantId, keyId }: OfKey): Promise<void> {
  const store = await database.open();
  const version = sampleVersion(tenantId, keyId);
  await store.mutate(callOf(), { tenantId, resource: 'k' }, (tx) =>
    insertKey(tx, { name: 'k', settings: SETTINGS, version, stateSeal: SAMPLE_SEAL }),
  );
  await store.close();
}

/** Stored data keys, as bytes that the schema accepts, all under version 1. */
function insertDataKeys(
  database: TestDatabase,
  { tenantId, keyId }: OfKey,
  count: number,
): Promise<unknown[]> {
  return database.sql(
    // Without triggers: of keys of which nothing is read there need be no rows.
    `SET session_replication_role = replica;
     INSERT INTO data_keys (tenant_id, key_id, name, data_key_id, context_digest, ciphertext)
     SELECT '${tenantId}', '${keyId}', md5(n::text), gen_random_uuid(), sha256(n::text::bytea),
       '\\x01010300'::bytea || uuid_send('${keyId}') || '\\x00000001'::bytea
         || sha512(n::text::bytea) || sha512(n::text::bytea)
     FROM generate_series(1, ${count}) n`,
  );
}

for (const [belief, believe] of Object.entries(BELIEFS)) {
  test(`a batch to re-wrap costs a batch's rows where Postgres believes ${belief} of ${COUNT} data keys`, async () => {
    await using database = await migratedDatabase();
    for (const table of ['data_keys', 'keys'])
      await database.sql(`ALTER TABLE ${table} SET (autovacuum_enabled = false)`);
    const tenantId = await newTenant(database, 'acme');
    const keyId = newId<KeyId>();
    await addKey(database, { tenantId, keyId });
    await believe(database);
    await insertDataKeys(database, { tenantId, keyId }, COUNT);
    await database.sql(
      `INSERT INTO key_versions SELECT (jsonb_populate_record(v, '{"version": 2}')).*
       FROM key_versions v WHERE key_id = $1`,
      [keyId],
    );
    await database.sql('UPDATE keys SET primary_version = 2 WHERE key_id = $1', [keyId]);
    const before = await rowsRead(database, 'data_keys');
    const store = await database.open();
    const frontier = { tenantId, keyId, name: '' };
    const job = { tenantId, jobId: newId(), scopeTenantId: tenantId, scopeKeyId: keyId, frontier };
    const step = await store.reconcile(callOf(), (tx) => planDataKeys(tx, job as never, BATCH));
    assert.equal(step?.range?.total, BATCH);
    const key = { tenantId, keyId, tenant: 'acme', key: 'k' };
    const batch = await readDataKeys(
      store,
      callOf(),
      key,
      { afterName: '', untilName: 'z' },
      BATCH,
    );
    assert.equal(batch.dataKeys.length, BATCH);
    await store.close();
    const cost = (await rowsRead(database, 'data_keys')) - before;
    assert.ok(cost <= FEW, `${cost} rows were read for two batches of ${BATCH}`);
  });
}

test('a tick that finds nothing due reads few rows of many keys, though Postgres believes them due', async () => {
  await using database = await migratedDatabase();
  for (const table of ['key_versions', 'keys'])
    await database.sql(`ALTER TABLE ${table} SET (autovacuum_enabled = false)`);
  const { keyId } = await otherKey(database);
  // Without triggers, and so without versions of theirs, which nothing here reads.
  await database.sql(
    `SET session_replication_role = replica;
     INSERT INTO keys SELECT (jsonb_populate_record(k, jsonb_build_object('key_id', gen_random_uuid(),
       'name', 'k' || n, 'rotation_period_seconds', 86400, 'next_rotation_at', now() - interval '1 day'))).*
     FROM keys k, generate_series(1, ${COUNT}) n WHERE k.key_id = '${keyId}'`,
  );
  await database.sql('ANALYZE keys, key_versions');
  await database.sql(
    `SET session_replication_role = replica;
     UPDATE keys SET next_rotation_at = now() + interval '1 day' WHERE name <> 'k'`,
  );
  await database.sql('VACUUM (INDEX_CLEANUP ON, ANALYZE OFF) keys');
  const before = await rowsRead(database, 'keys');
  const store = await database.open();
  const due = await findDue(store, callOf(), BATCH, () => Promise.resolve(false));
  assert.deepEqual(due.rotations, []);
  await store.close();
  const cost = (await rowsRead(database, 'keys')) - before;
  assert.ok(cost <= FEW, `${cost} rows were read to find nothing`);
});
