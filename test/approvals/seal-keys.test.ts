/**
 * Pending operations and what was decided on them while the seal key is replaced, and the former
 * one destroyed.
 */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { eventually, runCommand } from '../support/kit.ts';
import { sql } from '../support/reconciling.ts';
import { idOf, People } from './people.ts';

let people: People;
before(async () => {
  people = await People.start();
});
after(() => people?.[Symbol.asyncDispose]());

/** The seal key that an operation is under. */
async function sealKeyOf(name: string): Promise<string> {
  const [row] = await sql<{ id: string }>(
    people.rig.environment,
    'SELECT seal_key_id AS id FROM pending_operations WHERE operation_id = $1',
    [idOf(name)],
  );
  assert.ok(row, name);
  return row.id;
}

/** What is under a seal key: key versions, and other records. */
async function under(sealKey: string): Promise<readonly [number, number]> {
  const name = `tenants/system/tokenKeys/${sealKey}`;
  const { keyVersions, sealedRecords } = await people.rig.done('HsmService/GetTokenKey', { name });
  return [Number(keyVersions), Number(sealedRecords)];
}

const destroy = (sealKey: string) =>
  runCommand(people.rig.environment, ['token', 'destroy-key', sealKey]);

test('an operation that waits while the seal key is replaced is approved and done, and only then nothing is under the former key', async () => {
  const tenant = await people.tenant({ approvals: 2 });
  const anna = await people.requester(tenant);
  const [bert, cora] = [await people.approver(tenant), await people.approver(tenant)];
  const [key, other] = [await people.key(tenant), await people.key(tenant)];
  const name = await people.ask(anna, key);
  const ended = await people.ask(anna, other);
  await people.decided(bert, name);
  await people.decided(bert, ended, 'reject');
  const former = await sealKeyOf(name);

  await people.rig.done('HsmService/RotateSealKey', {});
  // What is left is the approval, which agents seal only as they verify the signature.
  await eventually(async () => assert.deepEqual(await under(former), [0, 1]));
  for (const each of [name, ended]) assert.notEqual(await sealKeyOf(each), former);
  const waiting = await people.get(name);
  assert.equal(waiting.state, 'PENDING_OPERATION_STATE_PENDING');
  assert.deepEqual(
    waiting.decisions.map(({ approver }) => approver),
    [bert.name],
  );
  const refused = await destroy(former);
  assert.equal(refused.code, 1);
  assert.match(refused.output, / 0 passkeys and 1 pending operations, or what was decided on them/);

  await people.decided(cora, name);
  await people.until(name, 'DONE');
  assert.equal(await people.stateOf(key), 'KEY_STATE_DESTROY_SCHEDULED');
  assert.deepEqual(await under(former), [0, 0]);
  const { code, output } = await destroy(former);
  assert.equal(code, 0, output);
  // How they ended is still known; what was decided, the entries of the audit log prove.
  const states = await Promise.all(
    [name, ended].map(async (each) => (await people.get(each)).state),
  );
  assert.deepEqual(states, ['PENDING_OPERATION_STATE_DONE', 'PENDING_OPERATION_STATE_REJECTED']);
  assert.deepEqual(
    (await people.get(name)).decisions.map(({ approver }) => approver),
    [cora.name],
  );
  const approvals = (await people.entries(name)).filter(({ detail }) =>
    detail?.includes('"evidence"'),
  );
  assert.deepEqual(
    approvals.map(({ caller }) => caller),
    [bert.name, cora.name],
  );
});
