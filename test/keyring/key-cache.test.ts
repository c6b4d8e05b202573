/**
 * The key cache on a real database: what concurrent calls share, and what they must not.
 */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { type AnyId, type KeyId, newId, type TenantId } from '../../src/ids.ts';
import { KeyCache } from '../../src/keyring/keys/key-cache.ts';
import { KeyStates, type KeyStatesParts } from '../../src/keyring/keys/key-states.ts';
import { TenantSeals } from '../../src/keyring/keys/tenant-seals.ts';
import { insertKey } from '../../src/store/keys/keys.ts';
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
} from '../store/database.ts';
import { alertsTo, NO_ALERTS } from '../support/alerts.ts';

let database: TestDatabase;
let store: Store;
let acme: TenantId;
let globex: TenantId;

before(async () => {
  database = await migratedDatabase();
  store = await database.open();
  acme = await newTenant(database, 'acme');
  globex = await newTenant(database, 'globex');
});

after(async () => {
  await store?.close();
  await database?.[Symbol.asyncDispose]();
});

async function newKey(name: string): Promise<KeyId> {
  const keyId = newId<KeyId>();
  await store.mutate(callOf(), { tenantId: acme, resource: name }, (tx) =>
    insertKey(tx, {
      name,
      settings: SETTINGS,
      version: sampleVersion(acme, keyId),
      stateSeal: SAMPLE_SEAL,
    }),
  );
  return keyId;
}

/** Agents for whom every seal verifies. */
const agents = {
  call: async (_: string, { items }: { readonly items: readonly unknown[] }) => ({
    verified: items.map(() => 1),
  }),
  held: [],
} as unknown as KeyStatesParts['agents'];
/** Nothing is sealed here. */
const sealKeys: KeyStatesParts['sealKeys'] = {
  currentSealKey: () => assert.fail('something is sealed'),
  readCurrentSealKey: () => assert.fail('something is sealed'),
};
const newStates = () => new KeyStates({ store, agents, sealKeys, alerts: NO_ALERTS });
const cacheOver = (from: Store, states: KeyStates, isFresh = () => true) =>
  new KeyCache({
    store: from,
    states,
    tenantSeals: new TenantSeals({ store: from, agents, sealKeys, alerts: NO_ALERTS }),
    limit: 100,
    isFresh,
    onForget: (ofId) => forgotten.push(ofId),
  });
/** Of which tenants and keys caches have forgotten the state; undefined for all. */
const forgotten: (TenantId | KeyId | undefined)[] = [];
const newCache = (fresh = true) => cacheOver(store, newStates(), () => fresh);

test('another tenant that asks for a key first does not make it absent for its owner', async () => {
  const keyId = await newKey('asked-by-two');
  const cache = newCache();
  const [foreign, own] = await Promise.all([cache.key(globex, keyId), cache.key(acme, keyId)]);
  assert.equal(foreign, undefined);
  assert.equal(own?.record.name, 'asked-by-two');
});

test('a hundred calls for a key that is not loaded read it once, and do not use up the pool', async () => {
  await newKey('cold');
  const narrow = await database.open({ poolSize: 1 });
  const cache = cacheOver(narrow, newStates());
  const keys = await Promise.all(
    Array.from({ length: 100 }, () => cache.named({ tenant: 'acme', key: 'cold' })),
  );
  assert.equal(new Set(keys).size, 1);
  await narrow.close();
});

test('a change that is heard of while a key is being read makes the next use read it again', async () => {
  const keyId = await newKey('changing');
  const cache = newCache();
  const reading = cache.key(acme, keyId);
  cache.forget(acme, keyId);
  await store.mutate(callOf(), { tenantId: acme, resource: 'changing' }, (tx) =>
    addSamplePrimary(tx, sampleVersion(acme, keyId, 2)),
  );
  await reading;
  assert.equal((await cache.key(acme, keyId))?.primary.record.version, 2);
});

/** The store, whose reads of a key are done before `meanwhile` is, which goes before their end. */
function storeInWhich(meanwhile: () => Promise<void>): { readonly store: Store; reads: number } {
  const counted = {
    reads: 0,
    store: new Proxy(store, {
      get: (target, name) => {
        if (name !== 'readAlone') return Reflect.get(target, name).bind?.(target);
        return async (...values: Parameters<Store['readAlone']>) => {
          counted.reads += 1;
          const found = await store.readAlone(...values);
          await meanwhile();
          return found;
        };
      },
    }),
  };
  return counted;
}

/** The store, and the names of the tenants that are read. */
function countingTenants(): { readonly store: Store; readonly read: string[] } {
  const read: string[] = [];
  const query = (...[call, text, values]: Parameters<Store['query']>) => {
    if (text.includes('FROM tenants')) read.push(String(values?.[0]));
    return store.query(call, text, values);
  };
  const counting = new Proxy(store, {
    get: (target, name) => (name === 'query' ? query : Reflect.get(target, name).bind?.(target)),
  });
  return { store: counting, read };
}

test('a key that is asked for by its name is read in one round trip, once its tenant is known', async () => {
  const keyId = await newKey('by-name');
  const counted = storeInWhich(async () => {});
  const cache = cacheOver(counted.store, newStates());
  assert.equal((await cache.named({ tenant: 'acme', key: 'by-name' })).record.keyId, keyId);
  assert.equal((await cache.key(acme, keyId))?.record.name, 'by-name');
  assert.equal(counted.reads, 1);
});

test('a change that is heard of while a key is being read by its name is in what it answers', async () => {
  const keyId = await newKey('changing-by-name');
  const changes = [
    async () => {
      await store.mutate(callOf(), { tenantId: acme, resource: 'changing-by-name' }, (tx) =>
        addSamplePrimary(tx, sampleVersion(acme, keyId, 2)),
      );
      cache.forget(acme, keyId);
    },
  ];
  const cache = cacheOver(storeInWhich(async () => changes.pop()?.()).store, newStates());
  const found = await cache.named({ tenant: 'acme', key: 'changing-by-name' });
  assert.equal(found.primary.record.version, 2);
});

test('a tenant that changes while it is being read by its name is read again, and no other is', async () => {
  const counted = countingTenants();
  const cache = cacheOver(counted.store, newStates());
  const known = await cache.tenant('globex');
  const reading = cache.tenant('acme');
  cache.forgetTenant(acme);
  await reading;
  assert.deepEqual(counted.read, ['globex', 'acme']);
  assert.equal((await cache.tenant('acme')).tenantId, acme);
  assert.equal(await cache.tenant('globex'), known);
  assert.deepEqual(counted.read, ['globex', 'acme', 'acme']);
  assert.equal(forgotten.at(-1), acme);
});

test('a tenant that is forgotten with its keys leaves other tenants’ in memory', async () => {
  await newKey('of-acme');
  const ofGlobex = newId<KeyId>();
  await store.mutate(callOf(), { tenantId: globex, resource: 'of-globex' }, (tx) =>
    insertKey(tx, {
      name: 'of-globex',
      settings: SETTINGS,
      version: sampleVersion(globex, ofGlobex),
      stateSeal: SAMPLE_SEAL,
    }),
  );
  const counted = storeInWhich(async () => {});
  const cache = cacheOver(counted.store, newStates());
  const name = { tenant: 'acme', key: 'of-acme' };
  const [mine, others] = await Promise.all([
    cache.named(name),
    cache.named({ tenant: 'globex', key: 'of-globex' }),
  ]);
  assert.equal(counted.reads, 2);
  cache.forgetAllOf(acme);
  assert.equal(await cache.named({ tenant: 'globex', key: 'of-globex' }), others);
  assert.equal(counted.reads, 2);
  assert.notEqual(await cache.named(name), mine);
  assert.equal(counted.reads, 3);
  assert.equal(forgotten.at(-1), acme);
});

test('what is not there is looked for again', async () => {
  const cache = newCache();
  const missing = { tenant: 'acme', key: 'later' };
  await assert.rejects(cache.named(missing), { reason: 'RESOURCE_NOT_FOUND' });
  await newKey('later');
  assert.equal((await cache.named(missing)).record.name, 'later');
});

test('a replica that hears of no changes answers nothing from memory', async () => {
  await newKey('stale');
  await assert.rejects(newCache(false).named({ tenant: 'acme', key: 'stale' }), {
    reason: 'REPLICA_STALE',
  });
});

/**
 * A cache over agents for whom no seal verifies and who hold these; and how often it raised an
 * alarm.
 */
function doubtful(held: readonly AnyId[]) {
  const alerts: object[] = [];
  const doubting = {
    ...agents,
    held,
    call: async () => ({ verified: [0] }),
  } as KeyStatesParts['agents'];
  const states = new KeyStates({
    store,
    agents: doubting,
    sealKeys,
    alerts: alertsTo((fields) => alerts.push(fields)),
  });
  return { cache: cacheOver(store, states), alerts };
}

test('a state under a seal key that no agent here has is not taken for one that was tampered with', async () => {
  const keyId = await newKey('elsewhere');
  const { sealKeyId } = sampleVersion(acme, keyId);
  const { cache, alerts } = doubtful([]);
  await assert.rejects(cache.key(acme, keyId), { reason: 'TOKEN_KEY_NOT_READY' });
  assert.deepEqual(alerts, []);
  const held = doubtful([`${sealKeyId}` as AnyId]);
  await assert.rejects(held.cache.key(acme, keyId), { reason: 'KEY_STATE_CORRUPT' });
  assert.equal(held.alerts.length, 1);
  await database.sql('UPDATE keys SET state_seal_key_id = gen_random_uuid() WHERE key_id = $1', [
    keyId,
  ]);
  await assert.rejects(doubtful([]).cache.key(acme, keyId), { reason: 'KEY_STATE_CORRUPT' });
});

test('a key that does not verify is not verified again for every call, and is once a change to it is heard of', async () => {
  const keyId = await newKey('tampered');
  const { sealKeyId } = sampleVersion(acme, keyId);
  const { cache, alerts } = doubtful([`${sealKeyId}` as AnyId]);
  for (let call = 0; call < 50; call++)
    await assert.rejects(cache.named({ tenant: 'acme', key: 'tampered' }), {
      reason: 'KEY_STATE_CORRUPT',
    });
  assert.equal(alerts.length, 1);
  cache.forget(acme, keyId);
  await assert.rejects(cache.key(acme, keyId), { reason: 'KEY_STATE_CORRUPT' });
  assert.equal(alerts.length, 2);
});
