/**
 * Request ids on a real database: one effect however often and at once a request is sent, what is
 * kept of it, and a day of memory.
 */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, test } from 'node:test';
import type { Call } from '../../src/call.ts';
import { type AnyId, newId, type TenantId } from '../../src/ids.ts';
import { keepHouse } from '../../src/store/housekeeping.ts';
import { findEffect, RequestRepeated } from '../../src/store/request-ids.ts';
import type { Store } from '../../src/store/store.ts';
import { callOf, migratedDatabase, newTenant, type TestDatabase } from './database.ts';

let database: TestDatabase;
let store: Store;
let tenantId: TenantId;

before(async () => {
  database = await migratedDatabase();
  store = await database.open();
  tenantId = await newTenant(database, 'acme');
});

after(async () => {
  await store?.close();
  await database?.[Symbol.asyncDispose]();
});

const callWith = (requestId: string, body = 'same'): Call => ({
  ...callOf(),
  idempotency: {
    requestId,
    fingerprint: Buffer.alloc(32, body),
    keep: async ({ answer }) => ({
      effect: String(answer?.content),
      maskKeyId: newId<AnyId>(),
      mac: Buffer.alloc(32),
    }),
  },
});

/** What is kept of the call's effect. */
const keptOf = (call: Call) => store.read(call, tenantId, (tx) => findEffect(tx, tenantId, call));

/** A mutation whose effect is counted. */
function counted() {
  let effects = 0;
  const send = (call: Call, value: string) =>
    store.mutate(call, { tenantId, resource: 'r' }, async () => {
      effects += 1;
      return value;
    });
  return { send, effects: () => effects };
}

test('ten at once have one effect, which the others find kept', async () => {
  const { send, effects } = counted();
  const requestId = randomUUID();
  const answers = await Promise.allSettled(
    Array.from({ length: 10 }, (_, index) => send(callWith(requestId), `v${index}`)),
  );
  assert.equal(effects(), 1);
  const done = answers.filter(({ status }) => status === 'fulfilled');
  assert.equal(done.length, 1);
  for (const each of answers)
    if (each.status === 'rejected') assert.ok(each.reason instanceof RequestRepeated);
  const [first] = done;
  const kept = await keptOf(callWith(requestId));
  assert.equal(kept?.effect, first?.status === 'fulfilled' ? first.value : undefined);
});

test('an effect that was rolled back leaves the id free', async () => {
  const { send, effects } = counted();
  const requestId = randomUUID();
  const failing = store.mutate(callWith(requestId), { tenantId, resource: 'r' }, () =>
    Promise.reject(new Error('no')),
  );
  await assert.rejects(failing, /no/);
  assert.equal(await send(callWith(requestId), 'v'), 'v');
  assert.equal(effects(), 1);
});

test('another body under the same id is refused', async () => {
  const { send } = counted();
  const requestId = randomUUID();
  await send(callWith(requestId), 'v');
  await assert.rejects(send(callWith(requestId, 'other'), 'v'), RequestRepeated);
  await assert.rejects(keptOf(callWith(requestId, 'other')), { reason: 'REQUEST_ID_REUSED' });
});

test('a replay writes no audit entry', async () => {
  const { send } = counted();
  const requestId = randomUUID();
  const count = async () =>
    (
      await database.sql<{ n: string }>(
        'SELECT count(*) AS n FROM audit_entries WHERE tenant_id = $1',
        [tenantId],
      )
    )[0]?.n;
  await send(callWith(requestId), 'v');
  const before = await count();
  await assert.rejects(send(callWith(requestId), 'v'), RequestRepeated);
  assert.equal(await count(), before);
});

test('ids are forgotten after a day and not before, though the service’s role may delete none itself', async () => {
  const { send, effects } = counted();
  const [old, recent] = [randomUUID(), randomUUID()];
  for (const id of [old, recent]) await send(callWith(id), id);
  await database.sql(
    "UPDATE request_ids SET at = now() - interval '23 hours' WHERE request_id = $1",
    [recent],
  );
  await database.sql(
    "UPDATE request_ids SET at = now() - interval '25 hours' WHERE request_id = $1",
    [old],
  );
  await keepHouse(store);
  await assert.rejects(send(callWith(recent), recent), RequestRepeated);
  assert.equal(effects(), 2);
  await send(callWith(old), old);
  assert.equal(effects(), 3);
  await assert.rejects(
    store.mutate(callOf(), { tenantId, resource: 'r' }, (tx) =>
      tx.query('DELETE FROM request_ids'),
    ),
    /permission denied/,
  );
});
