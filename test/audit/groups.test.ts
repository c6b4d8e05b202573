/**
 * Entries that were made durable together: what becomes of a group's entries, one by one, until
 * they are leaves.
 *
 * Moves them by the store's own statement; the sequencer round it is `sequencing.test.ts`.
 */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { newId, type TenantId } from '../../src/ids.ts';
import { appendEntries } from '../../src/store/audit/audit.ts';
import { moveEntries } from '../../src/store/audit/audit-log.ts';
import type { Store } from '../../src/store/store.ts';
import { insertTenant } from '../../src/store/tenants/tenants.ts';
import { callOf, migratedDatabase, systemTenant, type TestDatabase } from '../store/database.ts';

interface Row {
  tenant: string;
  n: number;
  leaf_index: string | null;
}

const LEAVES_SEEN = `SELECT t.name AS tenant, (entry ->> 'n')::int AS n, leaf_index
  FROM audit_entries JOIN tenants t USING (tenant_id) WHERE entry ? 'n' ORDER BY leaf_index, n`;

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

const line = (n: number) =>
  JSON.stringify({ n, time: new Date(0).toISOString(), text: 'a\nb\n\nc' });

async function makeTenant(name: string): Promise<void> {
  const tenantId = newId<TenantId>();
  await store.mutate(
    callOf(),
    { tenantId: await systemTenant(database), resource: `tenants/${name}` },
    (tx) => insertTenant(tx, { tenantId, name, dedicatedRootKey: false }),
  );
}

/** One step, from a size on. Returns how many leaves were made. */
async function move(treeSize: number, limit: number): Promise<number> {
  return store.sequence(
    callOf(),
    async (tx) => (await moveEntries(tx, treeSize, limit)).length / 32,
  );
}

async function countLeaves(): Promise<number> {
  const [row] = await database.sql<{ count: number }>(
    'SELECT count(*)::int AS count FROM audit_log',
  );
  return row?.count ?? 0;
}

describe('entries that are written at once', () => {
  test('are each of their tenant, or of system where there is none of that name, and keep their order', async () => {
    await makeTenant('alpha');
    await makeTenant('beta');
    await move(0, 100);
    const tenants = ['alpha', 'beta', 'alpha', 'nobody', 'beta', 'alpha'];
    await appendEntries(
      store,
      callOf(),
      tenants.map((tenant, n) => ({ tenant, line: line(n) })),
    );
    const waiting = await database.sql<Row>(LEAVES_SEEN);
    assert.deepEqual(
      waiting.map(({ tenant, n, leaf_index }) => [tenant, n, leaf_index]),
      tenants.map((tenant, n) => [tenant === 'nobody' ? 'system' : tenant, n, null]),
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
    for (const count of [3, 5, 1])
      await appendEntries(
        store,
        callOf(),
        Array.from({ length: count }, (_, n) => ({ tenant: 'system', line: line(100 + n) })),
      );
    assert.equal(await move(size, 4), 8);
    assert.equal(await move(size + 8, 4), 1);
    assert.equal(await move(size + 9, 4), 0);
  });
});
