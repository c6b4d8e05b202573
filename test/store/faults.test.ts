/**
 * The store when Postgres fails: backends terminated, connections lost, pools exhausted.
 */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { monotonicNow } from '../../src/call.ts';
import { KeywardError, type Reason } from '../../src/errors.ts';
import { newId, type TenantId } from '../../src/ids.ts';
import type { Tx } from '../../src/store/core/transaction.ts';
import type { Store } from '../../src/store/store.ts';
import { listTenants } from '../../src/store/tenants/tenants.ts';
import { eventually } from '../support/kit.ts';
import {
  callOf,
  insertTenant,
  migratedDatabase,
  recordSampleKeys,
  SERVICE,
  systemTenant,
  type TestDatabase,
} from './database.ts';
import { type FaultyProxy, startProxy } from './proxy.ts';

let database: TestDatabase;
let system: TenantId;

before(async () => {
  database = await migratedDatabase();
  await recordSampleKeys(database);
  system = await systemTenant(database);
});

after(() => database[Symbol.asyncDispose]());

function reason(expected: Reason): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof KeywardError, String(error));
    assert.equal(error.reason, expected);
    return true;
  };
}

async function withStore(
  options: Parameters<TestDatabase['open']>[0],
  work: (store: Store) => Promise<void>,
): Promise<void> {
  const store = await database.open(options);
  try {
    await work(store);
  } finally {
    await store.close();
  }
}

async function withProxy(work: (store: Store, proxy: FaultyProxy) => Promise<void>): Promise<void> {
  await using proxy = await startProxy(database.url(SERVICE));
  await withStore({ url: proxy.through(database.url(SERVICE)) }, (store) => work(store, proxy));
}

async function terminateAll(state?: 'idle'): Promise<void> {
  await database.sql(
    `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
     WHERE usename = $1 AND datname = current_database() AND state = coalesce($2, state)`,
    [SERVICE, state],
  );
}

function addTenant(store: Store, name: string, milliseconds?: number) {
  return store.mutate(
    callOf(milliseconds),
    { tenantId: system, resource: `tenants/${name}` },
    (tx) => insertTenant(tx, { tenantId: newId(), name, dedicatedRootKey: false }),
  );
}

async function traces(name: string): Promise<{ tenants: number; entries: number }> {
  const [row] = await database.sql<{ tenants: number; entries: number }>(
    `SELECT (SELECT count(*)::int FROM tenants WHERE name = $1) AS tenants,
            (SELECT count(*)::int FROM audit_entries WHERE resource = 'tenants/' || $1) AS entries`,
    [name],
  );
  return row ?? { tenants: -1, entries: -1 };
}

/** Longer than anything waits. */
const sleep = (tx: Tx) => tx.query('SELECT pg_sleep(900)');

describe('terminated backends', () => {
  it('what is not the protocol of a database fails its call, and nothing else', async () => {
    const message = (type: string, body: readonly number[]) =>
      Buffer.from([type.charCodeAt(0), 0, 0, 0, 4 + body.length, ...body]);
    const answers = [
      message('R', [0, 0, 0x40, 0]), // authentication of no known kind
      message('T', [0xff, 0xff]), // a row of -1 columns
      message('T', [0, 9, 1]), // nine columns, of which none is there
      message('D', [0x7f, 0xff, 0, 0, 0, 1]),
      message('!', [1, 2, 3]),
      Buffer.from('HTTP/1.1 400 Bad Request\r\n\r\n'),
    ];
    await withProxy(async (store, proxy) => {
      const ask = () => store.read(callOf(2_000), system, (tx) => tx.query('SELECT 12345'));
      for (const answer of answers) {
        proxy.answerNextWith('SELECT 12345', answer);
        await assert.rejects(ask());
        assert.equal((await ask()).length, 1);
      }
    });
  });

  it('a connection that is ended in the very piece that opens it is made again, and fails nothing', async () => {
    await withProxy(async (store, proxy) => {
      proxy.endNextOnceReady();
      // At once, so that connections are made for them.
      const reads = [1, 2].map(() =>
        store.read(callOf(), system, (tx) => tx.query('SELECT pg_sleep(0.3)')),
      );
      assert.equal((await Promise.all(reads)).length, 2);
    });
  });

  it('case 75: a backend terminated while idle is noticed, and the next call succeeds', async () => {
    const heard: Error[] = [];
    await withStore({ onError: (error) => heard.push(error) }, async (store) => {
      await listTenants(store, callOf(), { limit: 1 });
      await terminateAll();
      assert.equal((await listTenants(store, callOf(), { limit: 1 })).length, 1);
      await terminateAll();
      await eventually(() => assert.ok(heard.length > 0));
      assert.equal((await store.read(callOf(), system, (tx) => tx.query('SELECT 1'))).length, 1);
    });
  });

  it('case 75: a backend terminated in flight fails the call at once with DATABASE_UNAVAILABLE', async () => {
    await withStore({}, async (store) => {
      const reading = store.read(callOf(600_000), system, sleep);
      setTimeout(() => terminateAll(), 100);
      // At the deadline it would be another one.
      await assert.rejects(reading, reason('DATABASE_UNAVAILABLE'));
      await store.ping(callOf());
    });
  });

  it('case 75: a backend terminated between two statements fails the mutation, which leaves nothing', async () => {
    await withStore({}, async (store) => {
      const mutating = store.mutate(
        callOf(),
        { tenantId: system, resource: 'tenants/half' },
        async (tx) => {
          await insertTenant(tx, { tenantId: newId(), name: 'half', dedicatedRootKey: false });
          await terminateAll();
          await delay(50);
        },
      );
      await assert.rejects(mutating, reason('DATABASE_UNAVAILABLE'));
      assert.deepEqual(await traces('half'), { tenants: 0, entries: 0 });
      await addTenant(store, 'whole');
      assert.deepEqual(await traces('whole'), { tenants: 1, entries: 1 });
    });
  });
});

describe('connections lost at COMMIT', () => {
  it('case 76: a COMMIT whose answer is lost is applied once, and the caller is told so', async () => {
    await withProxy(async (store, proxy) => {
      proxy.cutNext('after');
      assert.equal((await addTenant(store, 'answered')).name, 'answered');
      assert.deepEqual(await traces('answered'), { tenants: 1, entries: 1 });
    });
  });

  it('case 76: a COMMIT that is still under way when its connection breaks is waited for', async () => {
    await withProxy(async (store, proxy) => {
      proxy.cutNext('late');
      assert.equal((await addTenant(store, 'waited')).name, 'waited');
      assert.deepEqual(await traces('waited'), { tenants: 1, entries: 1 });
    });
  });

  it('case 76: a COMMIT that never arrives is not applied, and the caller is told so', async () => {
    await withProxy(async (store, proxy) => {
      proxy.cutNext('before');
      await assert.rejects(addTenant(store, 'lost'), reason('DATABASE_UNAVAILABLE'));
      assert.deepEqual(await traces('lost'), { tenants: 0, entries: 0 });
    });
  });

  it('case 76: when nobody can say what became of a COMMIT, the call fails with DATABASE_UNAVAILABLE', async () => {
    await withProxy(async (store, proxy) => {
      const mutating = store.mutate(
        callOf(1_500),
        { tenantId: system, resource: 'tenants/unknown' },
        async (tx) => {
          proxy.cutNext('after');
          proxy.accept('refuse');
          await terminateAll('idle');
          await delay(50);
          await insertTenant(tx, { tenantId: newId(), name: 'unknown', dedicatedRootKey: false });
        },
      );
      await assert.rejects(mutating, reason('DATABASE_UNAVAILABLE'));
      proxy.accept('pass');
      assert.deepEqual(await traces('unknown'), { tenants: 1, entries: 1 });
    });
  });

  it('a server that accepts connections and says nothing fails the call at its deadline', async () => {
    await withProxy(async (store, proxy) => {
      proxy.accept('hang');
      await terminateAll();
      await delay(50);
      const began = monotonicNow();
      await assert.rejects(
        listTenants(store, callOf(200), { limit: 1 }),
        reason('DEADLINE_EXCEEDED'),
      );
      assert.ok(monotonicNow() - began < 4_500);
      proxy.accept('refuse');
      await assert.rejects(
        listTenants(store, callOf(), { limit: 1 }),
        reason('DATABASE_UNAVAILABLE'),
      );
    });
  });
});

describe('waiting', () => {
  it('case 77: with all connections lent, a call fails after 300 ms; health still answers', async () => {
    await withStore({ poolSize: 1 }, async (store) => {
      const { promise: held, resolve: letGo } = Promise.withResolvers<void>();
      const holding = store.read(callOf(), system, () => held);
      await delay(50);
      await eventually(async () => {
        const began = monotonicNow();
        const waiting = Array.from({ length: 20 }, () =>
          listTenants(store, callOf(), { limit: 1 }),
        );
        for (const call of waiting) await assert.rejects(call, reason('DATABASE_POOL_EXHAUSTED'));
        const took = monotonicNow() - began;
        assert.ok(took > 250 && took < 1_500, `${took} ms`);
      });
      await store.ping(callOf());
      const inTime = listTenants(store, callOf(), { limit: 1 });
      letGo();
      assert.equal((await inTime).length, 1);
      await holding;
    });
  });

  it('a call that waits for a connection past its deadline fails with DEADLINE_EXCEEDED', async () => {
    await withStore({ poolSize: 1 }, async (store) => {
      const { promise: held, resolve: letGo } = Promise.withResolvers<void>();
      const holding = store.read(callOf(), system, () => held);
      await assert.rejects(
        listTenants(store, callOf(100), { limit: 1 }),
        reason('DEADLINE_EXCEEDED'),
      );
      letGo();
      await holding;
    });
  });

  it('a statement that outlasts the deadline fails the call, and Postgres gives up soon after', async () => {
    await withStore({ poolSize: 1 }, async (store) => {
      await assert.rejects(store.read(callOf(200), system, sleep), reason('DEADLINE_EXCEEDED'));
      assert.equal((await listTenants(store, callOf(), { limit: 1 })).length, 1);
      await eventually(async () => {
        const asleep = await database.sql(
          "SELECT FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'SELECT pg_sleep%' AND state = 'active'",
        );
        assert.equal(asleep.length, 0);
      });
    });
  });

  it('case 79: a server that accepts no writes is not opened, and not used once it accepts none', async () => {
    await using standby = await migratedDatabase();
    const tenantId = await systemTenant(standby);
    const store = await standby.open();
    const setReadOnly = (how: 'on' | 'off') =>
      standby.sql(
        `ALTER ROLE ${SERVICE} IN DATABASE ${standby.name} SET default_transaction_read_only = ${how}`,
      );
    const mutate = () =>
      store.mutate(callOf(), { tenantId, resource: 'tenants/a' }, (tx) =>
        tx.query('SELECT clock_timestamp()'),
      );
    try {
      await mutate();
      await setReadOnly('on');
      // As a server is that was told so, which also sessions hear of that there are.
      await standby.sql(
        `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid()`,
      );
      await assert.rejects(mutate(), reason('DATABASE_UNAVAILABLE'));
      await assert.rejects(store.ping(callOf()), reason('DATABASE_UNAVAILABLE'));
      await assert.rejects(
        store.read(callOf(), tenantId, (tx) => tx.query('SELECT 1')),
        reason('DATABASE_UNAVAILABLE'),
      );
      await assert.rejects(standby.open(), /the database server accepts no writes/);
      await setReadOnly('off');
      await mutate();
    } finally {
      await store.close();
    }
  });

  it('case 79: a full disk fails the mutation with DATABASE_UNAVAILABLE and leaves nothing, and the next one succeeds', async () => {
    await withProxy(async (store, proxy) => {
      proxy.answerNext('INSERT INTO tenants', '53100');
      await assert.rejects(addTenant(store, 'full'), reason('DATABASE_UNAVAILABLE'));
      assert.deepEqual(await traces('full'), { tenants: 0, entries: 0 });
      await addTenant(store, 'full');
      assert.deepEqual(await traces('full'), { tenants: 1, entries: 1 });
    });
  });

  it('case 78: what Postgres undoes for another is tried again, a bounded number of times, then CONFLICT', async () => {
    await withProxy(async (store, proxy) => {
      proxy.answerNext('INSERT INTO tenants', '40001', 2);
      await addTenant(store, 'retried');
      assert.deepEqual(await traces('retried'), { tenants: 1, entries: 1 });
      proxy.answerNext('INSERT INTO tenants', '40P01', 3);
      await assert.rejects(addTenant(store, 'contended'), reason('CONFLICT'));
      assert.deepEqual(await traces('contended'), { tenants: 0, entries: 0 });
    });
  });

  it('answers that come too late end the call at its deadline', async () => {
    await withProxy(async (store, proxy) => {
      await listTenants(store, callOf(), { limit: 1 });
      proxy.delayAnswers(5_000);
      await assert.rejects(
        listTenants(store, callOf(200), { limit: 1 }),
        reason('DEADLINE_EXCEEDED'),
      );
    });
  });

  it('after close every call fails', async () => {
    const store = await database.open();
    await store.close();
    await store.close();
    await assert.rejects(store.ping(callOf()), reason('DATABASE_UNAVAILABLE'));
    await assert.rejects(store.read(callOf(), system, sleep), reason('DATABASE_UNAVAILABLE'));
    await assert.rejects(addTenant(store, 'closed'), reason('DATABASE_UNAVAILABLE'));
  });
});
