/**
 * What a transaction of the store promises: one tenant, all or nothing, an audit entry, no more
 * rights than needed.
 */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { KeywardError } from '../../src/errors.ts';
import { type KeyId, newId, type TenantId } from '../../src/ids.ts';
import type { Tx } from '../../src/store/core/transaction.ts';
import { insertKey, listKeys } from '../../src/store/keys/keys.ts';
import type { Store } from '../../src/store/store.ts';
import {
  callOf,
  insertTenant,
  migratedDatabase,
  newTenant,
  SAMPLE_SEAL,
  SETTINGS,
  sampleVersion,
  systemTenant,
  type TestDatabase,
} from './database.ts';

let database: TestDatabase;
let store: Store;
let system: TenantId;
let alpha: TenantId;
let beta: TenantId;

before(async () => {
  database = await migratedDatabase();
  // One connection, so that every transaction gets what the one before may have left on it.
  store = await database.open({ poolSize: 1 });
  system = await systemTenant(database);
  alpha = await newTenant(database, 'alpha');
  beta = await newTenant(database, 'beta');
  await addKey(alpha, 'of-alpha');
  await addKey(beta, 'of-beta');
});

after(async () => {
  await store.close();
  await database[Symbol.asyncDispose]();
});

function mutate<T>(tenantId: TenantId, work: (tx: Tx) => Promise<T>): Promise<T> {
  return store.mutate(callOf(), { tenantId, resource: 'tenants/t/keys/k' }, work);
}

function addKey(tenantId: TenantId, name: string) {
  return mutate(tenantId, (tx) =>
    insertKey(tx, {
      name,
      settings: SETTINGS,
      version: sampleVersion(tenantId, newId<KeyId>()),
      stateSeal: SAMPLE_SEAL,
    }),
  );
}

async function entries(): Promise<number> {
  const [row] = await database.sql<{ n: number }>('SELECT count(*)::int AS n FROM audit_entries');
  return row?.n ?? -1;
}

const refused = { code: '42501' };

describe('tenants', () => {
  it('case 34: a query that forgets the tenant returns only rows of the one that the transaction is bound to', async () => {
    for (const [tenantId, name] of [
      [alpha, 'of-alpha'],
      [beta, 'of-beta'],
    ] as const) {
      const rows = await store.read(callOf(), tenantId, (tx) => tx.query('SELECT name FROM keys'));
      assert.deepEqual(rows, [{ name }]);
      const versions = await store.read(callOf(), tenantId, (tx) =>
        tx.query('SELECT tenant_id FROM key_versions'),
      );
      assert.deepEqual(versions, [{ tenant_id: tenantId }]);
    }
  });

  it('case 34: outside of a bound transaction nothing is seen, before the first one and after', async () => {
    const fresh = await database.open({ poolSize: 1 });
    try {
      for (const table of ['keys', 'key_versions', 'audit_entries']) {
        assert.deepEqual(await fresh.query(callOf(), `SELECT tenant_id FROM ${table}`), []);
        await fresh.read(callOf(), alpha, (tx) => tx.query('SELECT 1'));
        assert.deepEqual(await fresh.query(callOf(), `SELECT tenant_id FROM ${table}`), []);
      }
    } finally {
      await fresh.close();
    }
  });

  it('no row of another tenant can be written, and none of its keys changed', async () => {
    const foreign = sampleVersion(beta, newId<KeyId>());
    await assert.rejects(
      mutate(alpha, (tx) =>
        insertKey(tx, {
          name: 'stolen',
          settings: SETTINGS,
          version: foreign,
          stateSeal: SAMPLE_SEAL,
        }),
      ),
      refused,
    );
    const changed = await mutate(alpha, (tx) =>
      tx.query(
        'UPDATE keys SET primary_version = primary_version WHERE tenant_id = $1 RETURNING name',
        [beta],
      ),
    );
    assert.deepEqual(changed, []);
  });

  it('a statement that reads alone sees the tenant that it is bound to, and leaves nothing', async () => {
    const names = async () => {
      const own = await store.readAlone(callOf(), alpha, (tx) => tx.query('SELECT name FROM keys'));
      const unbound = await store.query(callOf(), 'SELECT name FROM keys');
      return { own, unbound };
    };
    assert.deepEqual(await names(), { own: [{ name: 'of-alpha' }], unbound: [] });
    const failing = store.readAlone(callOf(), alpha, (tx) => tx.query('SELECT 1 / 0'));
    await assert.rejects(failing, { code: '22012' });
    const writing = store.readAlone(callOf(), alpha, (tx) => tx.query('DELETE FROM changes'));
    await assert.rejects(writing, { reason: 'DATABASE_UNAVAILABLE' });
    assert.deepEqual(await names(), { own: [{ name: 'of-alpha' }], unbound: [] });
  });

  it('a statement that reads alone takes UUIDs, names and whole numbers, and nothing else', async () => {
    const echoed = (value: unknown) =>
      store.readAlone(callOf(), alpha, (tx) =>
        tx.query('SELECT $1::text AS it, $2::integer AS too', [value, 7]),
      );
    for (const value of [alpha, 'a-name-2'])
      assert.deepEqual(await echoed(value), [{ it: value, too: 7 }]);
    for (const value of ["it's", 'back\\slash', 'dollar$1', 'UPPER', 1.5, null, undefined, ['a']])
      await assert.rejects(echoed(value), /no UUID, name or whole number/);
  });

  it('another tenant is named by asking for it: nothing comes of that', async () => {
    assert.deepEqual(
      await store.read(callOf(), alpha, (tx) => listKeys(tx, beta, { limit: 10 })),
      [],
    );
  });

  it('a tenant id that is no UUID is refused before it reaches Postgres', async () => {
    const forged = `${alpha}'; DROP TABLE keys; --` as TenantId;
    await assert.rejects(
      store.read(callOf(), forged, (tx) => tx.query('SELECT 1')),
      /no UUID/,
    );
  });

  it('nothing of a transaction stays on its connection, but for plans of what is read', async () => {
    await store.read(callOf(), alpha, (tx) => tx.query('SELECT 1'));
    const [left] = await store.query(
      callOf(),
      `SELECT current_setting('keyward.tenant_id', true) AS tenant, current_setting('statement_timeout') AS statement,
              current_setting('idle_in_transaction_session_timeout') AS idle,
              (SELECT count(*)::int FROM pg_prepared_statements WHERE name NOT LIKE 'keyward%') AS prepared`,
    );
    assert.deepEqual(left, { tenant: '', statement: '0', idle: '0', prepared: 0 });
  });
});

describe('mutations', () => {
  it('a mutation writes who did what to which resource', async () => {
    const call = callOf();
    const mutation = { tenantId: alpha, resource: 'tenants/alpha/keys/audited' };
    await store.mutate(call, mutation, (tx) => tx.query('SELECT 1'));
    const rows = await database.sql(
      'SELECT tenant_id, caller, method, resource, outcome FROM audit_entries WHERE request_id = $1',
      [call.id],
    );
    assert.deepEqual(rows, [
      {
        tenant_id: alpha,
        caller: 'tester',
        method: 'keyward.v1.Test/Call',
        resource: 'tenants/alpha/keys/audited',
        outcome: 'OK',
      },
    ]);
  });

  it('work that throws leaves neither row nor entry', async () => {
    const before = await entries();
    const mutating = mutate(system, async (tx) => {
      await insertTenant(tx, { tenantId: newId(), name: 'undone', dedicatedRootKey: false });
      throw new KeywardError('CONFLICT');
    });
    await assert.rejects(mutating, { reason: 'CONFLICT' });
    assert.deepEqual(await database.sql("SELECT 1 FROM tenants WHERE name = 'undone'"), []);
    assert.equal(await entries(), before);
  });

  it('when the entry cannot be written, nothing is', async () => {
    await database.sql(
      "ALTER TABLE audit_inbox ADD CONSTRAINT none CHECK (position('unaudited' IN leaves) = 0) NOT VALID",
    );
    const mutating = store.mutate(
      callOf(),
      { tenantId: system, resource: 'tenants/unaudited' },
      (tx) => insertTenant(tx, { tenantId: newId(), name: 'unaudited', dedicatedRootKey: false }),
    );
    await assert.rejects(mutating, { code: '23514' });
    assert.deepEqual(await database.sql("SELECT 1 FROM tenants WHERE name = 'unaudited'"), []);
  });

  it('a failure that work swallowed is not taken for success', async () => {
    const swallowing = store.read(callOf(), alpha, async (tx) => {
      await tx.query('SELECT 1 / 0').catch(() => {});
    });
    await assert.rejects(swallowing, /failed transaction/);
  });

  it('a read cannot change anything', async () => {
    const writing = store.read(callOf(), system, (tx) =>
      insertTenant(tx, { tenantId: newId(), name: 'sly', dedicatedRootKey: false }),
    );
    await assert.rejects(writing, { reason: 'DATABASE_UNAVAILABLE' });
    assert.deepEqual(await database.sql("SELECT 1 FROM tenants WHERE name = 'sly'"), []);
  });

  it('a transaction is of no use once its work has ended', async () => {
    let kept: Tx | undefined;
    await store.read(callOf(), alpha, async (tx) => {
      kept = tx;
    });
    await assert.rejects(async () => kept?.query('SELECT 1'), /has ended/);
  });

  it('case 78: a transaction that is always undone in favour of others fails with CONFLICT after three tries', async () => {
    let tries = 0;
    const losing = mutate(alpha, (tx) => {
      tries++;
      return tx.query("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40001'; END $$");
    });
    await assert.rejects(losing, { reason: 'CONFLICT' });
    assert.equal(tries, 3);
  });

  it('case 78: of two transactions in a deadlock both succeed in the end, once', async () => {
    const names = ['first', 'second'];
    await Promise.all(names.map((name) => addKey(alpha, name)));
    const wide = await database.open({ poolSize: 2 });
    let tries = 0;
    const touch = (tx: Tx, name: string | undefined) =>
      tx.query('SELECT 1 FROM keys WHERE tenant_id = $1 AND name = $2 FOR UPDATE', [alpha, name]);
    const bothHaveOne = Promise.withResolvers<void>();
    const lockInOrder = (order: string[]) =>
      wide.mutate(callOf(), { tenantId: alpha, resource: 'deadlock' }, async (tx) => {
        await touch(tx, order[0]);
        if (++tries >= 2) bothHaveOne.resolve();
        await bothHaveOne.promise;
        await touch(tx, order[1]);
      });
    try {
      await Promise.all([lockInOrder(names), lockInOrder([...names].reverse())]);
      assert.equal(tries, 3);
      const [row] = await database.sql(
        "SELECT count(*)::int AS n FROM audit_entries WHERE resource = 'deadlock'",
      );
      assert.deepEqual(row, { n: 2 });
    } finally {
      await wide.close();
    }
  });
});

describe('rights', () => {
  it('the service can do nothing to audit entries but add them and read them', async () => {
    for (const statement of [
      "UPDATE audit_inbox SET leaves = 'changed'",
      'DELETE FROM audit_inbox',
      'TRUNCATE audit_inbox',
      "UPDATE audit_log SET leaf = 'changed'",
      'DELETE FROM audit_log',
      'TRUNCATE audit_log',
      'DROP TABLE audit_log_0',
      'SELECT 1 FROM audit_log_0',
      'INSERT INTO audit_log SELECT * FROM audit_log',
      'UPDATE audit_state SET tree_size = 0',
      "UPDATE audit_tiles SET hashes = ''",
      'DELETE FROM audit_checkpoints',
      'SELECT make_audit_partition(0)',
    ]) {
      await assert.rejects(
        mutate(alpha, (tx) => tx.query(statement)),
        refused,
      );
    }
  });

  it('the service can neither delete keys and versions nor change anything of them but which is primary', async () => {
    for (const statement of [
      'DELETE FROM keys',
      "UPDATE keys SET name = 'other'",
      'DELETE FROM key_versions',
      "UPDATE key_versions SET seal = ''",
      'DELETE FROM tenants',
      "UPDATE tenants SET name = 'other'",
      'UPDATE environment SET token_profile = NULL',
      'DELETE FROM token_objects',
      "INSERT INTO schema_releases VALUES ('x', '0.0.0')",
      'ALTER TABLE keys DISABLE ROW LEVEL SECURITY',
      'CREATE TABLE mine (a int)',
    ]) {
      await assert.rejects(
        mutate(alpha, (tx) => tx.query(statement)),
        refused,
        statement,
      );
    }
  });
});
