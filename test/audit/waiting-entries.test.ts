/**
 * Entries that wait, on a real database, by a clock that the test moves.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { WAITING_MS, WaitingEntries } from '../../src/audit/waiting-entries.ts';
import { acquireLease } from '../../src/store/audit/audit-log.ts';
import { callOf, migratedDatabase } from '../store/database.ts';

const STEP_MS = 10_000;
const INSERT = `INSERT INTO audit_inbox (tenant_id, entry_count, leaves)
  SELECT tenant_id, 1, '{}' FROM tenants`;

test('entries that nobody makes leaves of are reported once, and their end too', async () => {
  await using database = await migratedDatabase();
  const store = await database.open();
  try {
    let now = 0;
    const said: unknown[] = [];
    const waiting = new WaitingEntries({
      store,
      log: { info: (_fields, message) => said.push(message) },
      alerts: {
        raise: (id) => said.push(id),
        clear: (id) => said.push(`${id} no more`),
      },
      now: () => now,
    });
    const lookFor = async (milliseconds: number) => {
      for (const end = now + milliseconds; now < end; now += STEP_MS) await waiting.look();
    };
    await lookFor(2 * WAITING_MS);
    assert.deepEqual(said, [], 'none waits');
    await database.sql(INSERT);
    await lookFor(WAITING_MS);
    assert.deepEqual(said, [], 'not for long');
    await database.sql(INSERT);
    await lookFor(2 * WAITING_MS);
    assert.deepEqual(said, ['audit-entries-waiting']);
    await database.sql(
      'DELETE FROM audit_inbox WHERE group_number = (SELECT min(group_number) FROM audit_inbox)',
    );
    await lookFor(STEP_MS);
    assert.deepEqual(said.slice(1), [
      'entries become leaves of the audit log again',
      'audit-entries-waiting no more',
    ]);
  } finally {
    await store.close();
  }
});

test('a lease of the log that ends further ahead than any is over: the database’s clock was set back', async () => {
  await using database = await migratedDatabase();
  const store = await database.open();
  try {
    const set = (until: string) =>
      database.sql(`UPDATE audit_state SET leased_until = now() + interval '${until}'`);
    await set('1 hour');
    assert.notEqual(await acquireLease(store, callOf()), undefined);
    assert.equal(await acquireLease(store, callOf()), undefined, 'it is held now');
  } finally {
    await store.close();
  }
});
