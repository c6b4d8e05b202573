/**
 * Case 36, for pending operations: whatever somebody with write access to the database does to them
 * and to what was decided is not obeyed.
 */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { eventually } from '../support/kit.ts';
import { sql } from '../support/reconciling.ts';
import { idOf, People, type Person } from './people.ts';

const CORRUPT = 'PENDING_OPERATION_CORRUPT';

let people: People;
before(async () => {
  people = await People.start();
});
after(() => people?.[Symbol.asyncDispose]());

const write = (text: string, values: unknown[] = []) => sql(people.rig.environment, text, values);
const reasonOfGet = async (name: string) =>
  (await people.rig.ask(people.rig.tester, 'ApprovalService/GetPendingOperation', { name })).reason;

/** A tenant, who asks and approves in it, a key, and the operation that destroys it. */
async function asked(approvals = 1) {
  const tenant = await people.tenant({ approvals });
  const [anna, bert] = [await people.requester(tenant), await people.approver(tenant)];
  const key = await people.key(tenant);
  return { tenant, anna, bert, key, name: await people.ask(anna, key) };
}

/** Changes an operation's row, and puts it back. */
async function tampered(name: string, change: string, during: () => Promise<void>): Promise<void> {
  const id = idOf(name);
  await write('DROP TABLE IF EXISTS kept');
  await write(`CREATE TABLE kept AS SELECT * FROM pending_operations WHERE operation_id = '${id}'`);
  await write(`UPDATE pending_operations SET ${change} WHERE operation_id = $1`, [id]);
  try {
    await during();
  } finally {
    await putBack();
  }
}

/** Puts back the row that was kept, over what is there. */
async function putBack(): Promise<void> {
  const columns = await write(
    `SELECT column_name AS name FROM information_schema.columns WHERE table_name = 'kept'`,
  );
  const all = columns.map(({ name }) => name).join(', ');
  await write(
    `UPDATE pending_operations p SET (${all}) = (SELECT ${all} FROM kept)
     WHERE operation_id = (SELECT operation_id FROM kept)`,
  );
}

describe('case 36: of a pending operation', () => {
  it('a request that was changed in its row is neither shown, nor decided on, nor performed', async () => {
    const { bert, key, name, tenant } = await asked();
    const other = await people.key(tenant);
    const shown = await people.get(name);
    const request = shown.request.toString().replace(key, other);
    const from = people.rig.service.log.length;
    const changed = `request = convert_to('${request}', 'UTF8')`;
    await tampered(name, changed, async () => {
      assert.equal(await reasonOfGet(name), CORRUPT);
      assert.equal((await people.decide(bert, name, 'approve', { signs: shown })).reason, CORRUPT);
      await people.rig.service.logged(({ alert }) => alert === 'pending-operation-corrupt', from);
    });
    // And between the approval and its effect.
    await people.hold(name, true);
    await people.decided(bert, name);
    await tampered(name, `${changed}, attempt_after = '-infinity'`, async () => {
      await people.rig.service.logged(
        ({ alert }) => alert === 'pending-operation-corrupt',
        people.rig.service.log.length,
      );
      assert.equal(await people.stateOf(other), 'KEY_STATE_ENABLED');
    });
    assert.equal(await people.stateOf(key), 'KEY_STATE_ENABLED');
    await people.hold(name, false);
    await people.until(name, 'DONE');
    assert.equal(await people.stateOf(other), 'KEY_STATE_ENABLED');
  });

  it('no column can be changed', async () => {
    const { name } = await asked();
    const changes = [
      'revision = revision + 1',
      `state = 'APPROVED'`,
      `method = 'keyward.v1.KeyService/RestoreKey'`,
      `requester = 'spiffe://keyward.test/other'`,
      `request_digest = sha256('')`,
      `preview = '{}'`,
      `created_at = created_at + interval '1 second'`,
      `expires_at = expires_at + interval '1 day'`,
      `content = convert_to(replace(convert_from(content, 'UTF8'), 'PENDING', 'APPROVED'), 'UTF8')`,
      'seal_key_id = gen_random_uuid()',
      'seal = set_byte(seal, 31, get_byte(seal, 31) # 1)',
    ];
    for (const change of changes)
      await tampered(name, change, async () => {
        assert.equal(await reasonOfGet(name), CORRUPT, change);
      });
    assert.equal(await reasonOfGet(name), 'OK');
  });

  it('an approval that was copied from another one does not count', async () => {
    const { tenant, anna, bert, name: approved } = await asked(2);
    const cora = await people.approver(tenant);
    const name = await people.ask(anna, await people.key(tenant));
    await people.decided(bert, approved);
    await write(
      `INSERT INTO operation_decisions SELECT tenant_id, $2, approver, content, seal_key_id, seal,
         credential_id, client_data_json, authenticator_data, signature, public_key
       FROM operation_decisions WHERE operation_id = $1`,
      [idOf(approved), idOf(name)],
    );
    await people.decided(cora, name);
    assert.equal((await people.get(name)).state, 'PENDING_OPERATION_STATE_PENDING');
  });

  it('an approval that was taken for another person’s does not count', async () => {
    const { bert, name, tenant } = await asked(2);
    const cora = await people.approver(tenant);
    await people.decided(bert, name);
    await write(
      `INSERT INTO operation_decisions SELECT tenant_id, operation_id, $2, content, seal_key_id,
         seal, credential_id, client_data_json, authenticator_data, signature, public_key
       FROM operation_decisions WHERE operation_id = $1`,
      [idOf(name), cora.name],
    );
    assert.deepEqual(
      (await people.get(name)).decisions.map(({ approver }) => approver),
      [bert.name],
    );
    const dora = await people.approver(tenant);
    await people.decided(dora, name);
    await people.until(name, 'DONE');
  });

  it('an older row that is put back, after it was rejected, is refused', async () => {
    const { bert, name, key } = await asked();
    const signs = await people.get(name);
    await write('DROP TABLE IF EXISTS kept');
    await write(
      `CREATE TABLE kept AS SELECT * FROM pending_operations WHERE operation_id = '${idOf(name)}'`,
    );
    await people.decided(bert, name, 'reject');
    await people.get(name);
    await putBack();
    await write('DELETE FROM operation_decisions WHERE operation_id = $1', [idOf(name)]);
    assert.equal(await reasonOfGet(name), CORRUPT);
    assert.equal((await people.decide(bert, name, 'approve', { signs })).reason, CORRUPT);
    assert.equal(await people.stateOf(key), 'KEY_STATE_ENABLED');
  });

  it('an approver’s right that is put back in the policy’s rows does not count', async () => {
    const { tenant, bert, key, name } = await asked();
    await people.hold(name, true);
    await people.decided(bert, name);
    await keepPolicy(tenant);
    await unbindAll(tenant, bert);
    await people.rig.done('AccessService/ListRoleBindings', { parent: `tenants/${tenant}` });
    await putPolicyBack(tenant);
    await eventually(async () => {
      const { reason } = await people.rig.ask(people.rig.tester, 'AccessService/ListRoleBindings', {
        parent: `tenants/${tenant}`,
      });
      assert.equal(reason, 'POLICY_CORRUPT');
    });
    await people.hold(name, false);
    await eventually(async () => {
      const [row] = await write(
        'SELECT state, error_reason AS reason FROM pending_operations WHERE operation_id = $1',
        [idOf(name)],
      );
      assert.deepEqual(row, { state: 'FAILED', reason: 'POLICY_CORRUPT' });
    });
    const [row] = await write(
      `SELECT k.state FROM keys k JOIN tenants t USING (tenant_id)
       WHERE t.name = $1 AND k.name = $2`,
      [tenant, key.slice(key.lastIndexOf('/') + 1)],
    );
    assert.deepEqual(row, { state: 'ENABLED' });
  });
});

const POLICY_TABLES = ['access_policies', 'role_bindings', 'roles'];
const OF_TENANT = (tenant: string) =>
  `tenant_id = (SELECT tenant_id FROM tenants WHERE name = '${tenant}')`;

async function keepPolicy(tenant: string): Promise<void> {
  for (const table of POLICY_TABLES)
    await write(`CREATE TABLE kept_${table} AS SELECT * FROM ${table} WHERE ${OF_TENANT(tenant)}`);
}

async function putPolicyBack(tenant: string): Promise<void> {
  for (const table of POLICY_TABLES)
    await write(
      `DELETE FROM ${table} WHERE ${OF_TENANT(tenant)};
       INSERT INTO ${table} SELECT * FROM kept_${table}`,
    );
  await write(
    `INSERT INTO changes (tenant_id, kind, subject_id)
     SELECT tenant_id, 'access', tenant_id FROM tenants WHERE name = '${tenant}'`,
  );
}

async function unbindAll(tenant: string, { name }: Person): Promise<void> {
  const { roleBindings } = await people.rig.done('AccessService/ListRoleBindings', {
    parent: `tenants/${tenant}`,
  });
  for (const each of roleBindings as { name: string; principal?: string }[])
    if (each.principal === name)
      await people.rig.done('AccessService/DeleteRoleBinding', { name: each.name });
}
