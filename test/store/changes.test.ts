/**
 * The change feed against real transactions, and against polls that fail.
 */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { monotonicNow } from '../../src/call.ts';
import { newId, type TenantId } from '../../src/ids.ts';
import { type Change, ChangeFeed } from '../../src/store/changes.ts';
import { keepHouse } from '../../src/store/housekeeping.ts';
import type { Store } from '../../src/store/store.ts';
import { eventually } from '../support/kit.ts';
import { callOf, migratedDatabase, systemTenant, type TestDatabase } from './database.ts';

let database: TestDatabase;
let store: Store;
let system: TenantId;

before(async () => {
  database = await migratedDatabase();
  store = await database.open();
  system = await systemTenant(database);
});

after(async () => {
  await store.close();
  await database[Symbol.asyncDispose]();
});

/** The service's default. */
const STALENESS_MS = 1_500;
/** No poll comes so late that the feed begins again, where a test isn't about that. */
const PATIENCE_MS = 120_000;

/** A running feed that remembers what it was told. */
class Listening implements AsyncDisposable {
  readonly feed: ChangeFeed;
  readonly changes: Change[] = [];
  readonly errors: unknown[] = [];
  readonly #replica: Store | undefined;
  resets = 0;

  constructor(
    source: Pick<Store, 'queryPrimary'>,
    { replica, stalenessMs = PATIENCE_MS }: { replica?: Store; stalenessMs?: number } = {},
  ) {
    this.#replica = replica;
    this.feed = new ChangeFeed(source, stalenessMs, {
      onChange: (change) => this.changes.push(change),
      onReset: () => {
        this.resets++;
      },
      onError: (error) => this.errors.push(error),
    });
    this.feed.start();
  }

  timesTold(subjectId: string): number {
    return this.changes.filter((change) => change.subjectId === subjectId).length;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.feed.stop();
    await this.#replica?.close();
  }
}

async function until(condition: () => boolean, milliseconds = PATIENCE_MS): Promise<void> {
  const end = monotonicNow() + milliseconds;
  while (!condition() && monotonicNow() < end) await delay(10);
  assert.ok(condition(), `not within ${milliseconds} ms: ${condition}`);
}

/** A replica's feed, past its first poll. */
async function listening(on = database, stalenessMs = PATIENCE_MS): Promise<Listening> {
  const replica = await on.open();
  const listener = new Listening(replica, { replica, stalenessMs });
  await until(() => listener.resets === 1);
  return listener;
}

/** A transaction that has written a change and is still open. */
async function openWriter(): Promise<{ subjectId: string; commit(): Promise<void> }> {
  const client = new pg.Client({ connectionString: database.url() });
  await client.connect();
  await client.query('BEGIN');
  const subjectId = newId();
  await client.query("INSERT INTO changes (tenant_id, kind, subject_id) VALUES ($1, 'key', $2)", [
    system,
    subjectId,
  ]);
  return {
    subjectId,
    commit: async () => {
      await client.query('COMMIT');
      await client.end();
    },
  };
}

async function change(): Promise<string> {
  const subjectId = newId();
  await store.mutate(
    callOf(),
    { tenantId: system, resource: 'r', change: { kind: 'key', subjectId } },
    async () => {},
  );
  return subjectId;
}

// At once, as they mostly wait; those that disturb the others have a database of their own.
describe('change feed', { concurrency: true }, () => {
  it('begins by having everything forgotten, and is fresh from then on', async () => {
    await eventually(async () => {
      await using listener = new Listening(store, { stalenessMs: STALENESS_MS });
      assert.equal(listener.feed.isFresh(), false);
      assert.equal(listener.resets, 0);
      await until(() => listener.feed.isFresh());
      assert.equal(listener.resets, 1);
      await delay(STALENESS_MS + 200);
      assert.equal(listener.feed.isFresh(), true);
      assert.equal(listener.resets, 1);
    });
  });

  it('tells of a change soon after its commit, in two replicas', async () => {
    await using first = await listening();
    await using second = await listening();
    const subjectId = await eventually(async () => {
      const changed = await change();
      await until(() => first.timesTold(changed) > 0 && second.timesTold(changed) > 0, 1_000);
      return changed;
    });
    assert.deepEqual(
      first.changes.find((told) => told.subjectId === subjectId),
      { tenantId: system, kind: 'key', subjectId },
    );
  });

  it('tells nothing of a change that was undone', async () => {
    await using listener = await listening();
    const subjectId = newId();
    const mutation = {
      tenantId: system,
      resource: 'r',
      change: { kind: 'key', subjectId },
    } as const;
    await assert.rejects(
      store.mutate(callOf(), mutation, async (tx) => {
        await tx.query('SELECT 1 / 0');
      }),
    );
    const later = await change();
    await until(() => listener.timesTold(later) > 0);
    assert.equal(listener.timesTold(subjectId), 0);
  });

  it('misses no change that commits after others with higher numbers', async () => {
    await using listener = await listening();
    const slow = await openWriter();
    const slower = await openWriter();
    const fast = await change();
    await until(() => listener.timesTold(fast) > 0);
    await delay(300);
    await slower.commit();
    await until(() => listener.timesTold(slower.subjectId) > 0);
    await slow.commit();
    await until(() => listener.timesTold(slow.subjectId) > 0);
  });

  it('misses no change of a transaction that was open when the feed began', async () => {
    const early = await openWriter();
    await using listener = await listening();
    await delay(300);
    await early.commit();
    await until(() => listener.timesTold(early.subjectId) > 0);
  });

  it('tells of each change once while a writer stays open for long', async () => {
    await using listener = await listening();
    const writer = await openWriter();
    const made = [await change(), await change()];
    await delay(1_200);
    made.push(await change());
    await delay(400);
    await writer.commit();
    await until(() => listener.timesTold(writer.subjectId) > 0);
    await delay(600);
    for (const subjectId of [...made, writer.subjectId])
      assert.equal(listener.timesTold(subjectId), 1);
    assert.equal(listener.resets, 1);
  });

  it('gives up polls that hang, stops being fresh, and has everything forgotten when it goes on', async () => {
    await using hung = await migratedDatabase();
    await using listener = await listening(hung, STALENESS_MS);
    const before = listener.resets;
    const blocker = new pg.Client({ connectionString: hung.url() });
    await blocker.connect();
    await blocker.query('BEGIN; LOCK TABLE changes');
    await until(() => listener.errors.length >= 2);
    assert.equal(listener.feed.isFresh(), false);
    assert.equal(listener.resets, before);
    await blocker.query('ROLLBACK');
    await blocker.end();
    await until(() => listener.feed.isFresh());
    assert.ok(listener.resets > before);
  });

  it('outlives its connections', async () => {
    await using broken = await migratedDatabase();
    await using listener = await listening(broken);
    await broken.sql(
      "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'keyward'",
    );
    const subjectId = newId();
    await broken.sql("INSERT INTO changes (tenant_id, kind, subject_id) VALUES ($1, 'key', $2)", [
      await systemTenant(broken),
      subjectId,
    ]);
    await until(() => listener.timesTold(subjectId) > 0);
    assert.equal(listener.resets, 1);
  });

  it('has everything forgotten when the horizon went back, as after a restore', async () => {
    const horizons = ['1000', '1001', '1001', '990', '991'];
    const row = (horizon: string) => ({
      horizon,
      change_id: null,
      tenant_id: null,
      kind: null,
      subject_id: null,
    });
    const source = {
      queryPrimary: async () => [row(horizons.shift() ?? '991')],
    } as unknown as Store;
    await using listener = new Listening(source);
    await until(() => horizons.length === 2);
    assert.equal(listener.resets, 1);
    await until(() => horizons.length === 0);
    assert.equal(listener.resets, 2);
  });

  it('ends when it is told to, and is stale then', async () => {
    const listener = await listening(database, STALENESS_MS);
    await listener.feed.stop();
    const subjectId = await change();
    await delay(400);
    assert.equal(listener.timesTold(subjectId), 0);
    await delay(1_200);
    assert.equal(listener.feed.isFresh(), false);
    await listener[Symbol.asyncDispose]();
  });
});

it('purging deletes the changes that are over an hour old, and only those', async () => {
  const [recent, old] = [await change(), await change()];
  await database.sql(
    "UPDATE changes SET at = now() - interval '61 minutes' WHERE subject_id = $1",
    [old],
  );
  await keepHouse(store);
  const left = await database.sql('SELECT subject_id FROM changes WHERE subject_id = ANY ($1)', [
    [recent, old],
  ]);
  assert.deepEqual(left, [{ subject_id: recent }]);
});
