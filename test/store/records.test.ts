/**
 * Tenants, keys, versions and the environment, written and read back.
 */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { type KeyId, newId, type TenantId } from '../../src/ids.ts';
import { withOwnerConnection } from '../../src/store/core/owner.ts';
import type { MutationTx, Tx } from '../../src/store/core/transaction.ts';
import {
  type Mode,
  readEnvironment,
  readEnvironmentAsOwner,
  recordToken,
} from '../../src/store/environment.ts';
import { findVersion, listVersions } from '../../src/store/keys/key-versions.ts';
import {
  findKey,
  findKeyNamed,
  insertKey,
  type KeyRecord,
  listKeys,
  lockKey,
} from '../../src/store/keys/keys.ts';
import type { Store } from '../../src/store/store.ts';
import { findTenantByName, listTenants, tenantRecord } from '../../src/store/tenants/tenants.ts';
import {
  addSamplePrimary,
  callOf,
  insertTenant,
  migratedDatabase,
  newTenant,
  OWNER,
  recordSampleKeys,
  SAMPLE_SEAL,
  SAMPLE_TOKEN_SEALER,
  SETTINGS,
  sampleVersion,
  systemTenant,
  type TestDatabase,
} from './database.ts';

let database: TestDatabase;
let store: Store;
let tenantId: TenantId;

before(async () => {
  database = await migratedDatabase();
  await recordSampleKeys(database);
  store = await database.open({ poolSize: 10 });
  tenantId = await newTenant(database, 'keys-of');
});

after(async () => {
  await store.close();
  await database[Symbol.asyncDispose]();
});

function mutate<T>(work: (tx: MutationTx) => Promise<T>): Promise<T> {
  return store.mutate(callOf(), { tenantId, resource: 'r' }, work);
}

function read<T>(work: (tx: Tx) => Promise<T>): Promise<T> {
  return store.read(callOf(), tenantId, work);
}

function addKey(name: string): Promise<KeyRecord> {
  return mutate((tx) =>
    insertKey(tx, {
      name,
      settings: SETTINGS,
      version: sampleVersion(tenantId, newId<KeyId>()),
      stateSeal: SAMPLE_SEAL,
    }),
  );
}

function rotate(keyId: KeyId): Promise<number> {
  return mutate(async (tx) => {
    const locked = await lockKey(tx, tenantId, keyId);
    assert.ok(locked !== undefined);
    const next = locked.highestVersion + 1;
    await addSamplePrimary(tx, sampleVersion(tenantId, keyId, next));
    return next;
  });
}

const NO_QUOTAS = { callsPerSecond: null, keys: null, storedDataKeys: null };

describe('tenants', () => {
  it('a tenant is found by its name, and its name is taken', async () => {
    const tenant = { tenantId: newId<TenantId>(), name: 'found', dedicatedRootKey: true };
    const added = await mutate((tx) => insertTenant(tx, tenant));
    assert.deepEqual(
      { ...added, createdAt: undefined },
      {
        ...tenant,
        state: 'ENABLED',
        revision: '1',
        createdAt: undefined,
        shredAt: null,
        quotas: NO_QUOTAS,
        approvalRulesRevision: 0n,
      },
    );
    const stored = await findTenantByName(store, callOf(), 'found');
    assert.deepEqual(stored && tenantRecord(stored.claims), added);
    assert.deepEqual(stored?.seal, SAMPLE_SEAL);
    assert.equal(await findTenantByName(store, callOf(), 'nobody'), undefined);
    await assert.rejects(
      mutate((tx) =>
        insertTenant(tx, { tenantId: newId(), name: 'found', dedicatedRootKey: false }),
      ),
      { reason: 'RESOURCE_EXISTS' },
    );
    await assert.rejects(
      mutate((tx) =>
        insertTenant(tx, { tenantId: newId(), name: 'system', dedicatedRootKey: false }),
      ),
      { reason: 'RESOURCE_EXISTS' },
    );
  });

  it('of two who add the same name at once one succeeds', async () => {
    const outcomes = await Promise.allSettled(
      Array.from({ length: 5 }, () =>
        mutate((tx) =>
          insertTenant(tx, { tenantId: newId(), name: 'contended', dedicatedRootKey: false }),
        ),
      ),
    );
    assert.equal(outcomes.filter((outcome) => outcome.status === 'fulfilled').length, 1);
    for (const outcome of outcomes) {
      if (outcome.status === 'rejected') assert.equal(outcome.reason.reason, 'RESOURCE_EXISTS');
    }
  });

  it('tenants are listed by name, page by page', async () => {
    for (const name of ['p-1', 'p', 'p0', 'p-a']) await newTenant(database, name);
    const names: string[] = [];
    for (let after: string | undefined = 'ozzz'; ; ) {
      const page = await listTenants(store, callOf(), { after, limit: 2 });
      names.push(...page.map(({ claims }) => claims.name).filter((name) => name.startsWith('p')));
      after = page.at(-1)?.claims.name;
      if (after === undefined) break;
    }
    assert.deepEqual(names, ['p', 'p-1', 'p-a', 'p0']);
  });

  it('the schema refuses names that are not names', async () => {
    for (const name of ['', 'A', '1a', 'a-', 'a\n', 'a'.repeat(64)]) {
      await assert.rejects(
        mutate((tx) => insertTenant(tx, { tenantId: newId(), name, dedicatedRootKey: false })),
        { code: '23514' },
        name,
      );
    }
  });
});

describe('keys', () => {
  it('a key reads back as it was written', async () => {
    const version = sampleVersion(tenantId, newId<KeyId>());
    const added = await mutate((tx) =>
      insertKey(tx, {
        name: 'whole',
        settings: { ...SETTINGS, description: 'd', labels: { team: 'red' } },
        version,
        stateSeal: SAMPLE_SEAL,
      }),
    );
    const stored = {
      revision: '1',
      createdAt: added.createdAt,
      destroyAt: null,
      destroyedAt: null,
    };
    assert.deepEqual(added.primary, { ...version, ...stored });
    assert.deepEqual(
      [added.state, added.description, added.labels],
      ['ENABLED', 'd', { team: 'red' }],
    );
    assert.equal(added.name, 'whole');
    assert.deepEqual(await read((tx) => findKeyNamed(tx, tenantId, 'whole')), added);
    assert.deepEqual(await read((tx) => findKey(tx, tenantId, version.keyId)), added);
    assert.deepEqual(
      await read((tx) => findVersion(tx, tenantId, version.keyId, 1)),
      added.primary,
    );
  });

  it('a name is taken once in each tenant', async () => {
    await addKey('once');
    await assert.rejects(addKey('once'), { reason: 'RESOURCE_EXISTS' });
    const other = await newTenant(database, 'another');
    await store.mutate(callOf(), { tenantId: other, resource: 'r' }, (tx) =>
      insertKey(tx, {
        name: 'once',
        settings: SETTINGS,
        version: sampleVersion(other, newId<KeyId>()),
        stateSeal: SAMPLE_SEAL,
      }),
    );
  });

  it('what is not there is undefined, for any version that a ciphertext can name', async () => {
    const { keyId } = await addKey('sparse');
    assert.equal(await read((tx) => findKeyNamed(tx, tenantId, 'nothing')), undefined);
    assert.equal(await read((tx) => findKey(tx, tenantId, newId())), undefined);
    assert.equal(await mutate((tx) => lockKey(tx, tenantId, newId())), undefined);
    for (const version of [0, 2, 2 ** 31, 2 ** 32 - 1]) {
      assert.equal(await read((tx) => findVersion(tx, tenantId, keyId, version)), undefined);
    }
  });

  it('ten rotations at once make ten versions, and the last one is the primary', async () => {
    const { keyId } = await addKey('rotated');
    const made = await Promise.all(Array.from({ length: 10 }, () => rotate(keyId)));
    assert.deepEqual(
      made.sort((a, b) => a - b),
      [2, 3, 4, 5, 6, 7, 8, 9, 10, 11],
    );
    assert.equal((await read((tx) => findKey(tx, tenantId, keyId)))?.primary.version, 11);
    const versions = await read((tx) => listVersions(tx, tenantId, keyId, { limit: 4 }));
    assert.deepEqual(
      versions.map((version) => version.version),
      [11, 10, 9, 8],
    );
    const rest = await read((tx) => listVersions(tx, tenantId, keyId, { before: 3, limit: 4 }));
    assert.deepEqual(
      rest.map((version) => version.version),
      [2, 1],
    );
  });

  it('a version number is never used again', async () => {
    const { keyId } = await addKey('numbered');
    await assert.rejects(
      mutate((tx) => addSamplePrimary(tx, sampleVersion(tenantId, keyId, 1))),
      { reason: 'CONFLICT' },
    );
  });

  it('a key whose primary version does not exist cannot be committed', async () => {
    const adding = mutate((tx) =>
      tx.query(
        'INSERT INTO keys (tenant_id, key_id, name, primary_version) VALUES ($1, $2, $3, 1)',
        [tenantId, newId(), 'hollow'],
      ),
    );
    await assert.rejects(adding, { code: '23503' });
  });

  it('keys are listed by name, page by page, with their primary versions', async () => {
    for (const name of ['z-2', 'z', 'z0']) await addKey(name);
    const first = await read((tx) => listKeys(tx, tenantId, { after: 'y', limit: 2 }));
    assert.deepEqual(
      first.map((key) => [key.name, key.primary.version]),
      [
        ['z', 1],
        ['z-2', 1],
      ],
    );
    const second = await read((tx) => listKeys(tx, tenantId, { after: 'z-2', limit: 2 }));
    assert.deepEqual(
      second.map((key) => key.name),
      ['z0'],
    );
  });
});

describe('environment', () => {
  let database: TestDatabase;
  let store: Store;
  before(async () => {
    database = await migratedDatabase();
    store = await database.open();
  });
  after(async () => {
    await store.close();
    await database[Symbol.asyncDispose]();
  });
  const root = { objectId: newId(), role: 'root' } as const;
  const seal = { objectId: newId(), role: 'seal' } as const;
  const token = { profile: { wrap: 'AES_KEY_WRAP', order: ['a', 'b'] }, objects: [root, seal] };
  const record = (changed: Partial<typeof token> = {}, mode: Mode = 'production') =>
    withOwnerConnection(database.url(OWNER), undefined, (owner) =>
      recordToken(owner, mode, SAMPLE_TOKEN_SEALER, { ...token, ...changed }),
    );

  it('before token init there is an environment without a token', async () => {
    const environment = await readEnvironment(store);
    assert.match(environment.environmentId, /^[0-9a-f-]{36}$/);
    assert.equal(environment.systemTenantId, await systemTenant(database));
    assert.equal(environment.tokenProfile, null);
    assert.equal(environment.mode, null);
    assert.deepEqual(environment.tokenObjects, []);
  });

  it('what token init made is recorded once; the same again changes nothing, anything else is refused', async () => {
    const outcomes = await Promise.all([record(), record(), record({ objects: [seal, root] })]);
    assert.deepEqual(outcomes.sort(), ['recorded', 'unchanged', 'unchanged']);
    await assert.rejects(record({ objects: [root] }), /different environments/);
    await assert.rejects(
      record({ objects: [root, { ...seal, objectId: newId() }] }),
      /different environments/,
    );
    await assert.rejects(
      record({ profile: { ...token.profile, wrap: 'other' } }),
      /holds another profile/,
    );
    const environment = await readEnvironment(store);
    assert.deepEqual(environment.tokenProfile, token.profile);
    assert.equal(environment.mode, 'production');
    assert.deepEqual(
      environment.tokenObjects.map((object) => object.objectId).sort(),
      [root.objectId, seal.objectId].sort(),
    );
    const asOwner = await withOwnerConnection(
      database.url(OWNER),
      undefined,
      readEnvironmentAsOwner,
    );
    assert.deepEqual(asOwner, environment);
  });

  it('its mode stays the one that token init recorded; where none was recorded, the next token init records its own', async () => {
    await assert.rejects(
      record({}, 'development'),
      /is for production, .* and KEYWARD_MODE is development/s,
    );
    await database.sql('UPDATE environment SET mode = NULL');
    assert.equal(await record({}, 'development'), 'unchanged');
    assert.equal((await readEnvironment(store)).mode, 'development');
    await assert.rejects(record(), /is for development, .* and KEYWARD_MODE is production/s);
    const outcomes = async (...modes: Mode[]) => {
      await database.sql('UPDATE environment SET mode = NULL');
      return (await Promise.allSettled(modes.map((mode) => record({}, mode)))).map(
        ({ status }) => status,
      );
    };
    assert.deepEqual((await outcomes('development', 'production')).sort(), [
      'fulfilled',
      'rejected',
    ]);
  });

  it('a tenant has at most one current object of each role', async () => {
    const second = database.sql(
      "INSERT INTO token_objects (tenant_id, object_id, role, is_current) VALUES ($1, $2, 'root', true)",
      [await systemTenant(database), newId()],
    );
    await assert.rejects(second, { code: '23505' });
  });
});
