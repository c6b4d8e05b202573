/**
 * Approved operations that cannot be done at once: what passes is tried again, and what does not
 * pass within an hour after the operation's expiry is given up.
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, it } from 'node:test';
import { pendingOperationContent, readPendingOperation } from '../../src/hsm/approval-records.ts';
import { RECORD } from '../../src/hsm/record-seal.ts';
import { faultsFor, type Pkcs11Faults } from '../faults/pkcs11.ts';
import { eventually } from '../support/kit.ts';
import { sql } from '../support/reconciling.ts';
import { withSealKey } from '../support/sealing.ts';
import { idOf, People } from './people.ts';

const SCHEDULED = 'KEY_STATE_DESTROY_SCHEDULED';
const HOUR_MS = 3_600_000;

let people: People;
let faults: Pkcs11Faults;
before(async () => {
  people = await People.start();
  const { environment, services } = people.rig;
  faults = faultsFor(join(environment.directory, 'faults'), environment.variables);
  // The only replica, whose token can be away.
  await people.rig.service.stop();
  services.length = 0;
  await people.rig.addReplica(faults.variables);
});
after(() => people?.[Symbol.asyncDispose]());

const write = (text: string, values: unknown[] = []) => sql(people.rig.environment, text, values);

/** An operation that waits for one approval, and the key that it destroys. */
async function asked() {
  const tenant = await people.tenant();
  const [anna, bert] = [await people.requester(tenant), await people.approver(tenant)];
  const key = await people.key(tenant);
  const name = await people.ask(anna, key);
  return { bert, key, name };
}

/** One that is approved, and that no replica does before it is let. */
async function approved() {
  const { bert, key, name } = await asked();
  await people.hold(name, true);
  await people.decided(bert, name);
  assert.equal((await people.get(name)).state, 'PENDING_OPERATION_STATE_APPROVED');
  return { key, name };
}

/** Has the operation expire so long from now, as if it had been asked for then. */
async function expireIn(name: string, milliseconds: number): Promise<Date> {
  const { environment } = people.rig;
  const [row] = await sql<{ content: Buffer; now: Date }>(
    environment,
    `SELECT content, date_trunc('milliseconds', clock_timestamp()) AS now
     FROM pending_operations WHERE operation_id = $1`,
    [idOf(name)],
  );
  assert.ok(row, name);
  const record = readPendingOperation(row.content);
  const expiresAt = new Date(row.now.getTime() + milliseconds);
  const waits = record.expiresAt.getTime() - record.createdAt.getTime();
  const createdAt = new Date(expiresAt.getTime() - waits);
  const content = pendingOperationContent({ ...record, createdAt, expiresAt });
  await withSealKey(environment, async (agent, sealKeyId) => {
    const kind = RECORD.pendingOperation;
    const { seals } = await agent.seal({ sealKeyId, kind, contents: [content] });
    await write(
      `UPDATE pending_operations SET created_at = $2, expires_at = $3, content = $4,
         seal_key_id = $5, seal = $6 WHERE operation_id = $1`,
      [idOf(name), createdAt, expiresAt, content, sealKeyId, seals[0]],
    );
  });
  return expiresAt;
}

/** The entries of the calls that were to do the operation. */
async function attempts(name: string) {
  return (await people.entries(name)).filter(
    ({ method, outcome }) =>
      method.endsWith('ScheduleKeyDestruction') && outcome !== 'APPROVAL_REQUIRED',
  );
}

/** That the key was scheduled once, as entries and its revision have it. */
async function happenedOnce(name: string, key: string): Promise<void> {
  const { state, etag } = await people.rig.done('KeyService/GetKey', { name: key });
  assert.deepEqual({ state, etag }, { state: SCHEDULED, etag: '2' });
  const done = (await attempts(name)).filter(({ outcome }) => outcome === 'OK');
  assert.equal(done.length, 1);
}

it('what the database refuses for a while is tried again, and done once', async () => {
  const { key, name } = await approved();
  await write(`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'not now' USING ERRCODE = 'cannot_connect_now'; END $$`);
  await write(`CREATE TRIGGER refuse BEFORE UPDATE ON keys FOR EACH ROW
    WHEN (NEW.state <> OLD.state) EXECUTE FUNCTION refuse()`);
  try {
    await people.hold(name, false);
    await eventually(async () => {
      const refused = (await attempts(name)).filter(
        ({ outcome }) => outcome === 'DATABASE_UNAVAILABLE',
      );
      assert.ok(refused.length >= 2, `${refused.length} attempts`);
    });
    assert.equal((await people.get(name)).state, 'PENDING_OPERATION_STATE_APPROVED');
    assert.equal(await people.stateOf(key), 'KEY_STATE_ENABLED');
  } finally {
    await write('DROP FUNCTION refuse CASCADE');
  }
  await people.until(name, 'DONE');
  await happenedOnce(name, key);
});

it('what finds the HSM away is tried again, and done once it is back', async () => {
  const { key, name } = await approved();
  const from = people.rig.service.log.length;
  faults.set('* return 0x32');
  await people.hold(name, false);
  await people.rig.service.logged(
    ({ msg, operation }) =>
      msg === 'an operation cannot be ended; trying again' &&
      JSON.stringify(operation).includes(idOf(name)),
    from,
  );
  const [row] = await write('SELECT state FROM pending_operations WHERE operation_id = $1', [
    idOf(name),
  ]);
  assert.deepEqual(row, { state: 'APPROVED' });
  faults.set();
  await eventually(async () => {
    const { reason } = await people.rig.ask(people.rig.tester, 'KeyService/GetKey', { name: key });
    assert.equal(reason, 'OK');
  });
  await eventually(async () => assert.equal(await people.stateOf(key), SCHEDULED));
  await people.until(name, 'DONE');
  await happenedOnce(name, key);
});

it('what was approved in time is done after its expiry as well, for an hour', async () => {
  const { bert, key, name } = await asked();
  await people.hold(name, true);
  const expiresAt = await expireIn(name, 10_000);
  await people.decided(bert, name);
  await eventually(async () => {
    const [row] = await write('SELECT clock_timestamp() > $1 AS "isOver"', [expiresAt]);
    assert.deepEqual(row, { isOver: true });
  });
  assert.equal((await people.get(name)).state, 'PENDING_OPERATION_STATE_APPROVED');
  await people.hold(name, false);
  await people.until(name, 'DONE');
  await happenedOnce(name, key);
});

it('what could not be done until an hour after its expiry has failed, and is not done later', async () => {
  const { key, name } = await approved();
  await expireIn(name, -HOUR_MS);
  await people.hold(name, false);
  const failed = await people.until(name, 'FAILED');
  assert.equal(failed.errorReason, 'OPERATION_NOT_PENDING');
  assert.equal(await people.stateOf(key), 'KEY_STATE_ENABLED');
  assert.match(failed.errorMessage, /an hour after its expiry/);
  const outcomes = (await attempts(name)).map(({ outcome }) => outcome);
  assert.deepEqual(outcomes, ['OPERATION_NOT_PENDING']);
});
