/**
 * The switch for incidents over the wire: what it stops, on every replica, what it doesn't, and
 * that nothing is lost by it.
 */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { test } from 'node:test';
import type { KeywardClient } from 'keyward-client';
import { grantEverything } from '../support/grants.ts';
import { eventually, failureOf, reasonOf, sharedService, startService } from '../support/kit.ts';
import {
  assertOpen,
  endOf,
  idsOf,
  jobOf,
  makeDue,
  newId,
  QUICK,
  resealStates,
  sql,
  storeDataKeys,
  versionsInUse,
} from '../support/reconciling.ts';
import { TESTER } from '../support/tester.ts';

const PARENT = 'tenants/acme';
let keyward: KeywardClient;
const shared = sharedService(async (client) => {
  keyward = client;
  await keyward.createTenant({ tenantId: 'acme' });
}, QUICK);

const newKey = async (settings: { rotationPeriodSeconds?: number } = {}) =>
  (await keyward.createKey({ parent: PARENT, keyId: newId('k'), ...settings })).name;

test('maintenance is not paused unless somebody pauses it', async () => {
  assert.deepEqual(await keyward.getMaintenance(), {
    paused: false,
    changeTime: undefined,
    caller: '',
  });
});

test('pausing says when and who, and pausing what is paused changes nothing', async () => {
  const paused = await keyward.pauseMaintenance();
  assert.deepEqual([paused.paused, paused.caller], [true, TESTER]);
  assert.ok(paused.changeTime instanceof Date);
  const other = shared.environment.ca.issue({
    subject: 'other',
    usage: 'client',
    uris: ['spiffe://keyward.test/other'],
  });
  const { connect } = await import('keyward-client');
  await grantEverything(shared.environment.variables, ['spiffe://keyward.test/other']);
  using stranger = connect(shared.service.connectOptions(other));
  await eventually(() => stranger.getMaintenance());
  assert.deepEqual(await stranger.pauseMaintenance(), paused);
  assert.deepEqual(await keyward.getMaintenance(), paused);
  const resumed = await stranger.resumeMaintenance();
  assert.deepEqual([resumed.paused, resumed.caller], [false, 'spiffe://keyward.test/other']);
  assert.ok(Number(resumed.changeTime) > Number(paused.changeTime));
  assert.deepEqual(await keyward.resumeMaintenance(), resumed);
  const entries = await sql(
    shared.environment,
    "SELECT method, caller FROM audit_entries WHERE resource = 'maintenance' AND entry_id IS NOT NULL ORDER BY at LIMIT 1",
  );
  assert.deepEqual(entries, [
    { method: 'keyward.v1.AdminService/PauseMaintenance', caller: TESTER },
  ]);
});

test('case 89: the same request twice has one effect', async () => {
  const request = { requestId: randomUUID() };
  assert.equal((await keyward.pauseMaintenance(request)).paused, true);
  await keyward.resumeMaintenance();
  // Its answer is that of then, and it has no second effect.
  assert.equal((await keyward.pauseMaintenance(request)).paused, true);
  assert.equal((await keyward.getMaintenance()).paused, false);
  assert.equal(
    (await failureOf(keyward.pauseMaintenance({ requestId: 'x' }))).fieldViolations[0]?.field,
    'request_id',
  );
});

test('while it is paused no replica rotates, re-wraps or destroys, keys can be used, and then all is done', async () => {
  await using other = await startService(shared.environment, QUICK);
  const there = other.client();
  const [due, used, doomed, rotated] = [
    await newKey({ rotationPeriodSeconds: 3600 }),
    await newKey(),
    await newKey(),
    await newKey(),
  ];
  await keyward.updateKey({ key: { name: used, rotationUsageLimit: 2 } });
  const plaintexts = await storeDataKeys(keyward, rotated, 20);
  const { impact } = await keyward.scheduleKeyDestruction({ name: doomed, validateOnly: true });
  await keyward.scheduleKeyDestruction({ name: doomed, etag: impact.etag });
  await there.pauseMaintenance();

  await makeDue(shared.environment, due);
  for (let use = 0; use < 3; use++)
    await keyward.encrypt({ name: used, plaintext: Buffer.from('p') });
  const { keyId } = await idsOf(shared.environment, doomed);
  await sql(
    shared.environment,
    "UPDATE keys SET destroy_at = now() - interval '1 s' WHERE key_id = $1",
    [keyId],
  );
  await resealStates(shared.environment, 'k.key_id = $1', [keyId]);
  await keyward.rotateKey({ name: rotated });
  const job = await jobOf(keyward, rotated);
  const all = await keyward.createRewrapJob({ scope: 'tenants/-' });
  assert.deepEqual([all.state, all.paused], ['RUNNING', true]);
  await ticked();
  for (const name of [due, used])
    assert.equal((await keyward.getKey({ name })).primary.name, `${name}/versions/1`);
  assert.equal((await keyward.getKey({ name: doomed })).state, 'DESTROY_SCHEDULED');
  const standing = await keyward.getRewrapJob({ name: job });
  assert.deepEqual([standing.state, standing.paused, standing.done], ['RUNNING', true, 0]);
  assert.deepEqual(await versionsInUse(keyward, rotated), [1]);
  assert.equal((await keyward.getKey({ name: rotated })).primary.name, `${rotated}/versions/2`);
  await assertOpen(keyward, plaintexts);
  assert.equal(
    await reasonOf(keyward.encrypt({ name: doomed, plaintext: Buffer.from('p') })),
    'KEY_NOT_ENABLED',
  );

  await keyward.resumeMaintenance();
  await eventually(async () => {
    for (const name of [due, used])
      assert.equal((await keyward.getKey({ name })).primary.name, `${name}/versions/2`);
    assert.equal((await keyward.getKey({ name: doomed })).state, 'DESTROYED');
  });
  for (const name of [job, all.name]) assert.equal((await endOf(keyward, name)).state, 'SUCCEEDED');
  assert.deepEqual(await versionsInUse(keyward, rotated), [2]);
  await assertOpen(keyward, plaintexts);
});

/**
 * Waits until three more ticks have passed, by the database's clock; what was to be done would have
 * been begun.
 */
async function ticked(): Promise<void> {
  const [row] = await sql<{ end: Date }>(
    shared.environment,
    "SELECT clock_timestamp() + interval '2.5 s' AS end",
  );
  await eventually(async () => {
    const [now] = await sql<{ now: Date }>(shared.environment, 'SELECT clock_timestamp() AS now');
    assert.ok(Number(now?.now) > Number(row?.end));
  });
}

test('a writer of the database resumes nothing: a switch that does not verify counts as paused', async () => {
  const { environment, service } = shared;
  const set = (text: string) => sql(environment, `UPDATE maintenance SET ${text}`);
  const alerted = (from: number) =>
    service.logged((line) => line['alert'] === 'maintenance-corrupt', from);
  await keyward.resumeMaintenance();
  const [open] = await sql(environment, 'SELECT * FROM maintenance');
  await keyward.pauseMaintenance();
  const due = await newKey({ rotationPeriodSeconds: 3600 });
  await makeDue(environment, due);
  const isRotated = async (times: number) =>
    assert.equal(
      (await keyward.getKey({ name: due })).primary.name,
      `${due}/versions/${times + 1}`,
    );
  const putBack = `(paused, changed_at, caller, revision, seal_key_id, seal)
    = (SELECT $1::boolean, $2::timestamptz, $3::text, $4::bigint, $5::uuid, $6::bytea)`;
  const changes: readonly (() => Promise<unknown>)[] = [
    () => set('paused = false'),
    () => set('paused = false, revision = revision + 1'),
    () => set('paused = false, seal = NULL, seal_key_id = NULL'),
    () =>
      sql(environment, `UPDATE maintenance SET ${putBack}`, [
        open?.['paused'],
        open?.['changed_at'],
        open?.['caller'],
        open?.['revision'],
        open?.['seal_key_id'],
        open?.['seal'],
      ]),
  ];
  for (const change of changes) {
    const from = service.log.length;
    await change();
    await alerted(from);
    assert.equal((await keyward.getMaintenance()).paused, true);
    // One that remembers nothing takes what was put back with its seal, and rotates.
    if (change !== changes.at(-1)) {
      await using another = await startService(environment, QUICK);
      assert.equal((await another.client().getMaintenance()).paused, true);
    }
    await isRotated(0);
    assert.equal((await keyward.pauseMaintenance()).caller, TESTER);
  }
  await keyward.resumeMaintenance();
  await eventually(() => isRotated(1));
  const from = service.log.length;
  await set('paused = true');
  await alerted(from);
  assert.equal((await keyward.resumeMaintenance()).paused, false);
  assert.deepEqual((await keyward.getMaintenance()).paused, false);
});
