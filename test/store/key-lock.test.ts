/**
 * The lock under which a key is changed, against those under which data keys are added to it.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { test } from 'node:test';
import { type DataKeyId, idToBytes, type KeyId, newId } from '../../src/ids.ts';
import { insertDataKey } from '../../src/store/keys/data-keys.ts';
import { insertKey, lockKey } from '../../src/store/keys/keys.ts';
import {
  callOf,
  migratedDatabase,
  newTenant,
  SAMPLE_SEAL,
  SETTINGS,
  sampleVersion,
} from './database.ts';

const ADDERS = 40;
/**
 * How long each transaction stays open behind what it has added, as one does whose replica is busy.
 */
const HOLD_SECONDS = 0.02;

test('a change to a key gets its turn under a stream of new data keys that never pauses', async () => {
  await using database = await migratedDatabase();
  await using stack = new AsyncDisposableStack();
  const store = await database.open({ poolSize: ADDERS + 2 });
  stack.defer(() => store.close());
  const tenantId = await newTenant(database, 'acme');
  const keyId = newId<KeyId>();
  const mutation = { tenantId, resource: 'tenants/acme/keys/k' };
  await store.mutate(callOf(), mutation, (tx) =>
    insertKey(tx, {
      name: 'k',
      settings: SETTINGS,
      version: sampleVersion(tenantId, keyId),
      stateSeal: SAMPLE_SEAL,
    }),
  );
  const header = Buffer.concat([
    Buffer.from('01010300', 'hex'),
    idToBytes(keyId),
    Buffer.from('00000001', 'hex'),
  ]);
  let ended = false;
  let added = 0;
  const add = async () => {
    while (!ended) {
      const dataKey = {
        name: `dk-${randomBytes(8).toString('hex')}`,
        dataKeyId: newId<DataKeyId>(),
        contextDigest: Buffer.alloc(32),
        ciphertext: Buffer.concat([header, Buffer.alloc(124)]),
        version: 1,
      };
      await store.mutate(callOf(), mutation, async (tx) => {
        await insertDataKey(tx, tenantId, keyId, dataKey);
        await tx.query('SELECT pg_sleep($1)', [HOLD_SECONDS]);
      });
      added += 1;
    }
  };
  const adding = Promise.all(Array.from({ length: ADDERS }, add));
  adding.catch(() => {});
  try {
    for (let change = 0; change < 5; change++) {
      const before = added;
      await store.mutate(callOf(5_000), mutation, (tx) => lockKey(tx, tenantId, keyId));
      assert.ok(added - before <= 3 * ADDERS, `${added - before} others came first`);
    }
  } finally {
    ended = true;
    await adding;
  }
  assert.ok(added > 0);
});
