/**
 * Plans that sessions keep of what is read again and again: made once on each connection, used as
 * the text is, and not relied upon.
 */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { startPooler } from '../../bench/pooler.ts';
import { type KeyId, newId, type TenantId } from '../../src/ids.ts';
import { findKeyNamed, insertKey } from '../../src/store/keys/keys.ts';
import type { Store } from '../../src/store/store.ts';
import {
  callOf,
  migratedDatabase,
  newTenant,
  SAMPLE_SEAL,
  SERVICE,
  SETTINGS,
  sampleVersion,
  type TestDatabase,
} from './database.ts';

/** More than Postgres plans for the values at hand, before it has one plan for any. */
const OFTEN = 12;
const PLANS = `SELECT name, (generic_plans + custom_plans)::integer AS runs
  FROM pg_prepared_statements WHERE name LIKE 'keyward%'`;

let database: TestDatabase;
let acme: TenantId;
let globex: TenantId;
const ids = new Map<string, KeyId>();

before(async () => {
  database = await migratedDatabase();
  acme = await newTenant(database, 'acme');
  globex = await newTenant(database, 'globex');
  const store = await database.open();
  for (const [tenantId, name] of [
    [acme, 'one'],
    [acme, 'two'],
    [globex, 'one'],
  ] as const) {
    const keyId = newId<KeyId>();
    ids.set(tenantId + name, keyId);
    const version = sampleVersion(tenantId, keyId);
    await store.mutate(callOf(), { tenantId, resource: name }, (tx) =>
      insertKey(tx, { name, settings: SETTINGS, version, stateSeal: SAMPLE_SEAL }),
    );
  }
  await store.close();
});

after(() => database?.[Symbol.asyncDispose]());

const read = (store: Store, tenantId: TenantId, name: string) =>
  store.readAlone(callOf(), tenantId, (tx) => findKeyNamed(tx, tenantId, name));

/** Each tenant's keys by their names, and none by a name that is another's. */
async function readAll(store: Store): Promise<void> {
  for (const [tenantId, name] of [
    [acme, 'one'],
    [globex, 'one'],
    [acme, 'two'],
    [globex, 'two'],
  ] as const)
    assert.equal((await read(store, tenantId, name))?.keyId, ids.get(tenantId + name));
}

test('what is read alone is planned once on a connection, for every tenant and name', async () => {
  const store = await database.open({ poolSize: 1 });
  for (let round = 0; round < OFTEN; round++) await readAll(store);
  const plans = await store.read(callOf(), acme, (tx) => tx.query(PLANS));
  assert.deepEqual(
    plans.map(({ runs }) => runs),
    [4 * OFTEN],
  );
  await store.close();
});

test('a session that has lost its plans is read from all the same, and so after a change of the table', async () => {
  const store = await database.open({ poolSize: 1 });
  await readAll(store);
  await store.read(callOf(), acme, (tx) => tx.query('DEALLOCATE ALL'));
  await readAll(store);
  await database.sql('ALTER TABLE keys ALTER COLUMN description TYPE varchar');
  await readAll(store);
  await readAll(store);
  await database.sql('ALTER TABLE keys ALTER COLUMN description TYPE text');
  await store.close();
});

test('a pooler’s sessions are left without plans', async (t) => {
  await using pooler = await startPooler(database.url(SERVICE));
  if (pooler === undefined) {
    t.skip('there is no pgbouncer');
    return;
  }
  const store = await database.open({ url: pooler.url });
  for (let round = 0; round < OFTEN; round++) await readAll(store);
  const plans = await store.read(callOf(), acme, (tx) => tx.query(PLANS));
  assert.deepEqual(plans, []);
  await store.close();
});
