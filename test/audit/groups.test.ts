/**
 * Entries that were made durable together: what becomes of a group's entries, one by one, until
 * they are leaves.
 *
 * The sequencer round it is `sequencing.test.ts`.
 */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { Inbox, type InboxParts } from '../../src/audit/inbox.ts';
import type { RequestOf } from '../../src/hsm/protocol.ts';
import { newId, type TenantId } from '../../src/ids.ts';
import { appendEntries } from '../../src/store/audit/audit.ts';
import type { Store } from '../../src/store/store.ts';
import {
  callOf,
  insertTenant,
  migratedDatabase,
  recordSampleKeys,
  systemTenant,
  type TestDatabase,
} from '../store/database.ts';
import { asReplica, deriveWriterKey } from './writer-keys.ts';

interface Row {
  tenant: string;
  n: number;
  leaf_index: string | null;
}

const LEAVES_SEEN = `SELECT t.name AS tenant, (entry ->> 'n')::int AS n, leaf_index
  FROM audit_entries JOIN tenants t USING (tenant_id) WHERE entry ? 'n' ORDER BY leaf_index, n`;

let database: TestDatabase;
let store: Store;
let parts: InboxParts;
let inbox: Inbox;

before(async () => {
  database = await migratedDatabase();
  await recordSampleKeys(database);
  store = asReplica(await database.open());
  const call = async (_: string, request: RequestOf<'deriveWriterKey'>) => deriveWriterKey(request);
  parts = {
    agents: { call } as unknown as InboxParts['agents'],
    systemTenantId: await systemTenant(database),
  };
  inbox = new Inbox(parts);
});

after(async () => {
  await store.close();
  await database[Symbol.asyncDispose]();
});

const line = (n: number) =>
  JSON.stringify({ n, time: new Date(0).toISOString(), text: 'a\nb\n\nc' });

async function makeTenant(name: string): Promise<TenantId> {
  const tenantId = newId<TenantId>();
  await store.mutate(
    callOf(),
    { tenantId: await systemTenant(database), resource: `tenants/${name}` },
    (tx) => insertTenant(tx, { tenantId, name, dedicatedRootKey: false }),
  );
  return tenantId;
}

/** One step, from a size on. Returns how many leaves were made. */
async function move(treeSize: number, limit: number): Promise<number> {
  return store.sequence(callOf(), async (tx) => {
    const { leafHashes, problems } = await inbox.take(tx, treeSize, limit);
    assert.deepEqual(problems, []);
    return leafHashes.length / 32;
  });
}

async function countLeaves(): Promise<number> {
  const [row] = await database.sql<{ count: number }>(
    'SELECT count(*)::int AS count FROM audit_log',
  );
  return row?.count ?? 0;
}

describe('entries that are written at once', () => {
  test('are each of their tenant by its UUID, whatever the database calls it, and keep their order', async () => {
    const ids = new Map([
      ['alpha', await makeTenant('alpha')],
      ['beta', await makeTenant('gamma')],
      ['system', await systemTenant(database)],
    ]);
    await move(0, 100);
    await database.sql("UPDATE tenants SET name = 'beta' WHERE name = 'gamma'");
    const tenants = ['alpha', 'beta', 'alpha', 'system', 'beta', 'alpha'];
    await appendEntries(
      store,
      callOf(),
      tenants.map((tenant, n) => ({ tenantId: ids.get(tenant) as TenantId, line: line(n) })),
    );
    const waiting = await database.sql<Row>(LEAVES_SEEN);
    assert.deepEqual(
      waiting.map(({ tenant, n, leaf_index }) => [tenant, n, leaf_index]),
      tenants.map((tenant, n) => [tenant, n, null]),
    );
    const size = await countLeaves();
    assert.equal(await move(size, 100), tenants.length);
    const leaves = await database.sql<Row>(LEAVES_SEEN);
    assert.deepEqual(
      leaves.map(({ leaf_index }) => Number(leaf_index) - size),
      tenants.map((_, index) => index),
    );
    for (const tenant of ['alpha', 'beta', 'system']) {
      const own = leaves.filter((row) => row.tenant === tenant).map(({ n }) => n);
      assert.deepEqual(own, own.toSorted(), tenant);
    }
    assert.deepEqual(
      leaves.map(({ tenant, n }) => [tenant, n]).sort(),
      waiting.map(({ tenant, n }) => [tenant, n]).sort(),
    );
  });

  test('become leaves in one step, also when that makes it longer than it was to be; what comes after them waits', async () => {
    const size = await countLeaves();
    const tenantId = await systemTenant(database);
    for (const count of [3, 5, 1])
      await appendEntries(
        store,
        callOf(),
        Array.from({ length: count }, (_, n) => ({ tenantId, line: line(100 + n) })),
      );
    assert.equal(await move(size, 4), 8);
    assert.equal(await move(size + 8, 4), 1);
    assert.equal(await move(size + 9, 4), 0);
  });

  test('without a proof are taken once, at the upgrade, and the log records that', async () => {
    const size = await countLeaves();
    const tenantId = await systemTenant(database);
    const wait = () =>
      database.sql('INSERT INTO audit_inbox (tenant_id, leaves) VALUES ($1, $2)', [
        tenantId,
        line(200),
      ]);
    await database.sql('DELETE FROM audit_writers');
    await wait();
    const upgraded = new Inbox(parts);
    const take = (from: number) => store.sequence(callOf(), (tx) => upgraded.take(tx, from, 100));
    const first = await take(size);
    assert.deepEqual(
      first.problems.map(({ problem, entries }) => [problem, entries]),
      [
        ['writers-unknown', undefined],
        ['unproven', 1],
      ],
    );
    assert.equal(first.leafHashes.length / 32, 3);
    await wait();
    const second = await take(size + 3);
    assert.deepEqual(
      second.problems.map(({ problem }) => problem),
      ['forged'],
    );
    assert.equal(second.leafHashes.length / 32, 1);
  });
});
