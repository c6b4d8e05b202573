/**
 * Reports of use, added up: each once, however often it is sent, and in whatever order replicas
 * come.
 */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, test } from 'node:test';
import { type KeyId, newId, type TenantId } from '../../src/ids.ts';
import { insertKey } from '../../src/store/keys/keys.ts';
import {
  addReport,
  findTotalUsage,
  findUsage,
  removeReplica,
  removeSilentReplicas,
  type VersionUse,
} from '../../src/store/keys/usage.ts';
import type { Store } from '../../src/store/store.ts';
import {
  addSamplePrimary,
  callOf,
  migratedDatabase,
  newTenant,
  SAMPLE_SEAL,
  SETTINGS,
  sampleVersion,
  type TestDatabase,
} from './database.ts';

let database: TestDatabase;
let store: Store;
let tenantId: TenantId;

before(async () => {
  database = await migratedDatabase();
  store = await database.open({ poolSize: 10 });
  tenantId = await newTenant(database, 'acme');
});

after(async () => {
  await store?.close();
  await database?.[Symbol.asyncDispose]();
});

async function newKey(rotationUsageLimit: number | null = null): Promise<KeyId> {
  const keyId = newId<KeyId>();
  await store.mutate(callOf(), { tenantId, resource: 'k' }, (tx) =>
    insertKey(tx, {
      name: `k-${randomUUID()}`,
      settings: { ...SETTINGS, rotationUsageLimit },
      version: sampleVersion(tenantId, keyId),
      stateSeal: SAMPLE_SEAL,
    }),
  );
  return keyId;
}

const use = (keyId: KeyId, encrypted: number, decrypted: number, version = 1): VersionUse => ({
  tenantId,
  keyId,
  version,
  encrypted,
  decrypted,
  sinceEncryptMs: encrypted > 0 ? 1_000 : undefined,
  sinceDecryptMs: decrypted > 0 ? 2_000 : undefined,
});
const total = (keyId: KeyId, version?: number) =>
  store.read(callOf(), tenantId, (tx) => findTotalUsage(tx, tenantId, keyId, version));
const isLimitReached = async (keyId: KeyId) => {
  const [row] = await database.sql<{ reached: boolean }>(
    'SELECT usage_limit_reached_at IS NOT NULL AS reached FROM keys WHERE key_id = $1',
    [keyId],
  );
  return row?.reached;
};

test('a report that is sent twice, also at once, counts once; the next one counts too', async () => {
  const keyId = await newKey();
  const report = { replicaId: randomUUID(), sequence: 1, ageMs: 0, uses: [use(keyId, 3, 2)] };
  await Promise.all([1, 2, 3].map(() => addReport(store, callOf(), report)));
  await addReport(store, callOf(), report);
  assert.deepEqual(await sums(keyId), [3, 2]);
  await addReport(store, callOf(), { ...report, sequence: 2 });
  assert.deepEqual(await sums(keyId), [6, 4]);
  await addReport(store, callOf(), report);
  assert.deepEqual(await sums(keyId), [6, 4], 'an old one that comes late');
});

test('of several replicas all are added, in whatever order they name the versions', async () => {
  const keyIds = await Promise.all(Array.from({ length: 8 }, () => newKey()));
  await Promise.all(
    Array.from({ length: 10 }, (_, replica) => {
      const uses = keyIds.map((keyId) => use(keyId, 1, 10));
      if (replica % 2 === 1) uses.reverse();
      return addReport(store, callOf(), { replicaId: randomUUID(), sequence: 1, ageMs: 0, uses });
    }),
  );
  for (const keyId of keyIds) assert.deepEqual(await sums(keyId), [10, 100]);
});

test('the last time is the latest that any replica tells, reckoned back by the database’s clock', async () => {
  const keyId = await newKey();
  const report = (sinceEncryptMs: number) => ({
    replicaId: randomUUID(),
    sequence: 1,
    ageMs: 0,
    uses: [{ ...use(keyId, 1, 0), sinceEncryptMs }],
  });
  await addReport(store, callOf(), report(5_000));
  await addReport(store, callOf(), report(3_600_000));
  const { lastEncryptAt, lastDecryptAt } = await total(keyId);
  assert.equal(lastDecryptAt, null);
  const [row] = await database.sql<{ now: Date }>('SELECT clock_timestamp() AS now');
  const ago = Number(row?.now) - Number(lastEncryptAt);
  assert.ok(ago >= 5_000 && ago < 30_000, `${ago} ms ago`);
});

test('versions are counted apart, and together for their key', async () => {
  const keyId = await newKey();
  await store.mutate(callOf(), { tenantId, resource: 'k' }, (tx) =>
    addSamplePrimary(tx, sampleVersion(tenantId, keyId, 2)),
  );
  const uses = [use(keyId, 1, 2, 1), use(keyId, 3, 4, 2)];
  await addReport(store, callOf(), { replicaId: randomUUID(), sequence: 1, ageMs: 0, uses });
  assert.deepEqual(await sums(keyId), [4, 6]);
  assert.deepEqual(
    [await sums(keyId, 1), await sums(keyId, 2), await sums(keyId, 3)],
    [
      [1, 2],
      [3, 4],
      [0, 0],
    ],
  );
  const usageOf = await store.read(callOf(), tenantId, (tx) => findUsage(tx, tenantId, keyId));
  assert.deepEqual([usageOf(2).encryptOperations, usageOf(3).encryptOperations], [3, 0]);
});

test('a limit is noticed when the primary’s use reaches it, not by what older versions did', async () => {
  const keyId = await newKey(5);
  const replicaId = randomUUID();
  await addReport(store, callOf(), {
    replicaId,
    sequence: 1,
    ageMs: 0,
    uses: [use(keyId, 4, 100)],
  });
  assert.equal(await isLimitReached(keyId), false);
  await store.mutate(callOf(), { tenantId, resource: 'k' }, (tx) =>
    addSamplePrimary(tx, sampleVersion(tenantId, keyId, 2)),
  );
  await addReport(store, callOf(), {
    replicaId,
    sequence: 2,
    ageMs: 0,
    uses: [use(keyId, 4, 0, 1), use(keyId, 4, 0, 2)],
  });
  assert.equal(await isLimitReached(keyId), false);
  await addReport(store, callOf(), {
    replicaId,
    sequence: 3,
    ageMs: 0,
    uses: [use(keyId, 1, 0, 2)],
  });
  assert.equal(await isLimitReached(keyId), true);
  await store.mutate(callOf(), { tenantId, resource: 'k' }, (tx) =>
    addSamplePrimary(tx, sampleVersion(tenantId, keyId, 3)),
  );
  assert.equal(await isLimitReached(keyId), false);
});

test('completeness is the oldest of the replicas that run; one that ended, or fell silent, is no longer waited for', async () => {
  await database.sql('DELETE FROM usage_reports');
  const keyId = await newKey();
  const [early, late, silent] = [randomUUID(), randomUUID(), randomUUID()] as const;
  const report = (replicaId: string, ageMs: number) =>
    addReport(store, callOf(), { replicaId, sequence: 1, ageMs, uses: [] });
  const age = async () => {
    const { completeAt } = await total(keyId);
    const [row] = await database.sql<{ now: Date }>('SELECT clock_timestamp() AS now');
    return completeAt && Math.round((Number(row?.now) - Number(completeAt)) / 60_000);
  };
  assert.equal(await age(), null);
  await report(silent, 3_600_000);
  assert.equal(await age(), null);
  await report(early, 300_000);
  await report(late, 0);
  assert.equal(await age(), 5);
  await removeReplica(store, callOf(), early);
  assert.equal(await age(), 0);
  await removeSilentReplicas(store, callOf());
  const rows = await database.sql<{ replica_id: string }>('SELECT replica_id FROM usage_reports');
  assert.deepEqual(rows, [{ replica_id: late }]);
});

async function sums(keyId: KeyId, version?: number): Promise<readonly [number, number]> {
  const { encryptOperations, decryptOperations } = await total(keyId, version);
  return [encryptOperations, decryptOperations];
}
