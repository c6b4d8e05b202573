/**
 * How many keys and stored data keys a tenant has, as the database counts them: exactly, and with
 * nobody waiting for it.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { KeywardError } from '../../src/errors.ts';
import { type DataKeyId, idToBytes, type KeyId, newId, type TenantId } from '../../src/ids.ts';
import { MIGRATIONS_DIRECTORY, migrationNames } from '../../src/store/core/schema.ts';
import type { MutationTx, Tx } from '../../src/store/core/transaction.ts';
import { deleteAllDataKeys, deleteDataKey, insertDataKey } from '../../src/store/keys/data-keys.ts';
import { changeStates } from '../../src/store/keys/key-seals.ts';
import { insertKey, updateKey } from '../../src/store/keys/keys.ts';
import type { Store } from '../../src/store/store.ts';
import { eraseTenant } from '../../src/store/tenants/shredding.ts';
import {
  callOf,
  emptyDatabase,
  migratedDatabase,
  newTenant,
  OWNER,
  recordSampleKeys,
  runSql,
  SAMPLE_SEAL,
  SAMPLE_SEALER,
  SETTINGS,
  sampleVersion,
  type TestDatabase,
} from './database.ts';

const AT_ONCE = 16;

let database: TestDatabase;
let store: Store;

before(async () => {
  database = await migratedDatabase();
  store = await database.open({ poolSize: AT_ONCE });
});

after(async () => {
  await store?.close();
  await database?.[Symbol.asyncDispose]();
});

/** A change to the tenant. */
function mutate<T>(
  tenantId: TenantId,
  work: (tx: MutationTx) => Promise<T>,
  asReconciler = false,
): Promise<T> {
  return store.mutate(callOf(), { tenantId, resource: 'r', asReconciler }, work);
}

/** Adds a key of that id, by default a new one. */
async function addKey(
  tx: Tx,
  tenantId: TenantId,
  { keyId = newId<KeyId>(), limit = Number.POSITIVE_INFINITY } = {},
): Promise<KeyId> {
  const name = `k-${randomBytes(8).toString('hex')}`;
  const version = sampleVersion(tenantId, keyId);
  await insertKey(tx, { name, settings: SETTINGS, version, stateSeal: SAMPLE_SEAL }, limit);
  return keyId;
}

function newDataKey(keyId: KeyId) {
  const header = Buffer.concat([
    Buffer.from('01010300', 'hex'),
    idToBytes(keyId),
    Buffer.from('00000001', 'hex'),
  ]);
  return {
    name: `dk-${randomBytes(8).toString('hex')}`,
    dataKeyId: newId<DataKeyId>(),
    contextDigest: Buffer.alloc(32),
    ciphertext: Buffer.concat([header, Buffer.alloc(124)]),
    version: 1,
  };
}

/** What is counted of the tenant, and in how many parts at most. */
async function counted(of: TenantId, where = database) {
  const [row] = await where.sql<{ keys: number; dataKeys: number; parts: number }>(
    `SELECT coalesce(sum(count) FILTER (WHERE kind = 'keys'), 0)::int AS keys,
       coalesce(sum(count) FILTER (WHERE kind = 'stored-data-keys'), 0)::int AS "dataKeys",
       greatest(count(*) FILTER (WHERE kind = 'keys'), count(*) FILTER (WHERE kind = 'stored-data-keys'))::int AS parts
     FROM tenant_counts WHERE tenant_id = $1`,
    [of],
  );
  assert.ok(row);
  return row;
}

test('what many transactions add and delete at once is counted exactly, in about as many parts as there are of them', async () => {
  const tenantId = await newTenant(database, 'busy');
  const keyId = await mutate(tenantId, (tx) => addKey(tx, tenantId));
  const rounds = 12;
  const work = async () => {
    for (let round = 0; round < rounds; round++) {
      const dataKey = newDataKey(keyId);
      await mutate(tenantId, (tx) => insertDataKey(tx, tenantId, keyId, dataKey));
      await mutate(tenantId, (tx) => addKey(tx, tenantId));
      if (round % 3 === 0)
        await mutate(tenantId, (tx) => deleteDataKey(tx, tenantId, keyId, dataKey));
      const undone = mutate(tenantId, async (tx) => {
        await insertDataKey(tx, tenantId, keyId, newDataKey(keyId));
        throw new Error('undone');
      });
      await assert.rejects(undone, /undone/);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  const { keys, dataKeys, parts } = await counted(tenantId);
  assert.deepEqual(
    { keys, dataKeys },
    { keys: 1 + AT_ONCE * rounds, dataKeys: (AT_ONCE * rounds * 2) / 3 },
  );
  assert.ok(parts <= 2 * AT_ONCE, `${parts} parts for ${AT_ONCE} transactions at once`);
});

test('nobody waits for a count that another transaction has changed and not committed', async () => {
  const tenantId = await newTenant(database, 'patient');
  const keyId = await mutate(tenantId, (tx) => addKey(tx, tenantId));
  const add = (tx: Tx) => insertDataKey(tx, tenantId, keyId, newDataKey(keyId));
  await mutate(tenantId, add);
  await mutate(tenantId, async (first) => {
    await add(first);
    await mutate(tenantId, async (second) => {
      await add(second);
      await mutate(tenantId, add);
    });
  });
  assert.equal((await counted(tenantId)).dataKeys, 4);
});

test('keys that are destroyed, and data keys that go with them or with the tenant, are no longer counted', async () => {
  const tenantId = await newTenant(database, 'ending');
  const keyIds: KeyId[] = [];
  for (let key = 0; key < 3; key++) {
    const keyId = await mutate(tenantId, (tx) => addKey(tx, tenantId));
    keyIds.push(keyId);
    for (let dataKey = 0; dataKey < 2; dataKey++)
      await mutate(tenantId, (tx) => insertDataKey(tx, tenantId, keyId, newDataKey(keyId)));
  }
  const [first] = keyIds;
  assert.ok(first);
  const identity = { tenantId, keyId: first };
  await mutate(tenantId, (tx) =>
    changeStates(tx, identity, SAMPLE_SEALER, (stateTx) =>
      updateKey(stateTx, tenantId, first, { state: 'DISABLED' }),
    ),
  );
  assert.deepEqual(await counted(tenantId), { keys: 3, dataKeys: 6, parts: 1 });

  await mutate(
    tenantId,
    async (tx) => {
      await tx.query(
        `UPDATE keys SET state = 'DESTROYED', destroyed_at = now() WHERE tenant_id = $1 AND key_id = $2`,
        [tenantId, first],
      );
      await deleteAllDataKeys(tx, tenantId, first);
    },
    true,
  );
  assert.deepEqual(await counted(tenantId), { keys: 2, dataKeys: 4, parts: 1 });

  await database.sql(
    `UPDATE tenants SET state = 'SHRED_SCHEDULED', shred_at = now() WHERE tenant_id = $1`,
    [tenantId],
  );
  assert.equal(await mutate(tenantId, (tx) => eraseTenant(tx, tenantId), true), 4);
  assert.deepEqual(await counted(tenantId), { keys: 0, dataKeys: 0, parts: 1 });
});

test('the limit is held against what is committed, so those under way at once may pass it, and no one after them', async () => {
  const tenantId = await newTenant(database, 'limited');
  const add = (tx: Tx) => addKey(tx, tenantId, { limit: 2 });
  await mutate(tenantId, add);
  await mutate(tenantId, async (tx) => {
    await add(tx);
    await mutate(tenantId, add);
  });
  assert.equal((await counted(tenantId)).keys, 3);
  const refused = mutate(tenantId, add);
  await assert.rejects(refused, (error: unknown) => {
    assert.ok(error instanceof KeywardError);
    assert.deepEqual(
      [error.reason, error.metadata],
      ['QUOTA_EXCEEDED', { quota: 'keys', limit: '2' }],
    );
    return true;
  });
  assert.equal((await counted(tenantId)).keys, 3);
});

test('the service can neither change a count nor see another tenant’s', async () => {
  const mine = await newTenant(database, 'mine');
  const other = await newTenant(database, 'other');
  for (const tenantId of [mine, other]) await mutate(tenantId, (tx) => addKey(tx, tenantId));
  const seen = await mutate(mine, (tx) => tx.query('SELECT DISTINCT tenant_id FROM tenant_counts'));
  assert.deepEqual(seen, [{ tenant_id: mine }]);
  for (const text of [
    'UPDATE tenant_counts SET count = 0',
    'DELETE FROM tenant_counts',
    `INSERT INTO tenant_counts (tenant_id, kind, count) VALUES ('${mine}', 'keys', -1)`,
    `SELECT add_to_count('${mine}', 'keys', -1)`,
  ]) {
    for (const asReconciler of [false, true])
      await assert.rejects(
        mutate(mine, (tx) => tx.query(text), asReconciler),
        { code: '42501' },
      );
  }
});

test('what was there before the migration is counted by it', async () => {
  await using older = await emptyDatabase();
  const names = await migrationNames();
  const at = names.indexOf('0008_quotas');
  const apply = async (name: string) => {
    await runSql(older.url(OWNER), readFileSync(join(MIGRATIONS_DIRECTORY, `${name}.sql`), 'utf8'));
  };
  for (const name of names.slice(0, at)) await apply(name);
  await recordSampleKeys(older);
  const tenantId = newId<TenantId>();
  await older.sql('INSERT INTO tenants (tenant_id, name) VALUES ($1, $2)', [tenantId, 'early']);
  const [kept, destroyed] = [newId<KeyId>(), newId<KeyId>()];
  for (const [keyId, state] of [
    [kept, 'DISABLED'],
    [destroyed, 'DESTROYED'],
  ] as const) {
    const { wrapped, checkValue, seal, rootKeyId, sealKeyId } = sampleVersion(tenantId, keyId);
    await older.sql(
      `WITH k AS (
         INSERT INTO keys (tenant_id, key_id, name, primary_version, state, destroyed_at)
         VALUES ($1, $2, $3, 1, $4, CASE $4 WHEN 'DESTROYED' THEN now() END))
       INSERT INTO key_versions (tenant_id, key_id, version, state, algorithm, root_key_id, wrap, wrapped, check_value,
         seal_key_id, seal)
       VALUES ($1, $2, 1, 'ENABLED', 1, $5, 1, $6, $7, $8, $9)`,
      [
        tenantId,
        keyId,
        state.toLowerCase(),
        state,
        rootKeyId,
        wrapped,
        checkValue,
        sealKeyId,
        seal,
      ],
    );
  }
  for (const dataKey of [newDataKey(kept), newDataKey(kept)]) {
    await older.sql(
      `INSERT INTO data_keys (tenant_id, key_id, name, data_key_id, context_digest, ciphertext)
       VALUES ($1, $2, $3, $4, $5, $6)`,
      [tenantId, kept, dataKey.name, dataKey.dataKeyId, dataKey.contextDigest, dataKey.ciphertext],
    );
  }
  await apply('0008_quotas');
  assert.deepEqual(await counted(tenantId, older), { keys: 1, dataKeys: 2, parts: 1 });
});
