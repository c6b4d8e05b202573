/**
 * Approved operations as they are done: by the rights and the rules of that moment, once.
 */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { People } from './people.ts';

let people: People;
before(async () => {
  people = await People.start();
});
after(() => people?.[Symbol.asyncDispose]());

const unbind = (name: string) => people.rig.done('AccessService/DeleteRoleBinding', { name });

describe('an approved operation', () => {
  it('is not done once its requester may not do it any more', async () => {
    const tenant = await people.tenant();
    const [anna, bert] = [await people.person(tenant, []), await people.approver(tenant)];
    const role = await people.rig.bind(tenant, anna.name, 'keyAdmin');
    await people.rig.bind(tenant, anna.name, 'keyViewer');
    const key = await people.key(tenant);
    const name = await people.ask(anna, key);
    await unbind(role);
    await people.decided(bert, name);
    const failed = await people.until(name, 'FAILED');
    assert.equal(failed.errorReason, 'PERMISSION_MISSING');
    assert.equal(await people.stateOf(key), 'KEY_STATE_ENABLED');
    const entries = await people.entries(name);
    const ofKeys = entries.filter(({ resource }) => resource === key);
    assert.deepEqual(
      ofKeys.map(({ outcome }) => outcome),
      ['APPROVAL_REQUIRED', 'PERMISSION_MISSING'],
    );
  });

  it('is not done when too few of those who approved still may', async () => {
    const tenant = await people.tenant({ approvals: 2 });
    const [anna, cora] = [await people.requester(tenant), await people.approver(tenant)];
    const bert = await people.approver(tenant);
    const key = await people.key(tenant);
    const name = await people.ask(anna, key);
    await people.decided(bert, name);
    await unbind(await bindingOf(tenant, bert.name));
    await people.decided(cora, name);
    const failed = await people.until(name, 'FAILED');
    assert.equal(failed.errorReason, 'APPROVALS_MISSING');
    assert.equal(await people.stateOf(key), 'KEY_STATE_ENABLED');
  });

  it('is not done when an approver was suspended meanwhile', async () => {
    const tenant = await people.tenant();
    const [anna, bert] = [await people.requester(tenant), await people.approver(tenant)];
    const key = await people.key(tenant);
    const name = await people.ask(anna, key);
    await people.hold(name, true);
    await people.decided(bert, name);
    await people.rig.done('CanaryService/CreateSuspension', {
      ...{ parent: `tenants/${tenant}`, caller: bert.name },
    });
    await people.hold(name, false);
    const failed = await people.until(name, 'FAILED');
    assert.equal(failed.errorReason, 'APPROVALS_MISSING');
    assert.equal(await people.stateOf(key), 'KEY_STATE_ENABLED');
  });

  it('is not done when the rules have come to want more approvals', async () => {
    const tenant = await people.tenant();
    const [anna, bert] = [await people.requester(tenant), await people.approver(tenant)];
    const key = await people.key(tenant);
    const name = await people.ask(anna, key);
    await people.setRules(tenant, [{ approvals: 2 }]);
    await people.decided(bert, name);
    const failed = await people.until(name, 'FAILED');
    assert.equal(failed.errorReason, 'APPROVALS_MISSING');
    assert.equal(await people.stateOf(key), 'KEY_STATE_ENABLED');
  });

  it('fails, and is not done later, when the key has changed since it was asked for', async () => {
    const tenant = await people.tenant();
    const [anna, bert] = [await people.requester(tenant), await people.approver(tenant)];
    const key = await people.key(tenant);
    const name = await people.ask(anna, key);
    await people.rig.done('KeyService/DisableKey', { name: key });
    await people.decided(bert, name);
    const failed = await people.until(name, 'FAILED');
    assert.equal(failed.errorReason, 'ETAG_MISMATCH');
    assert.equal(await people.stateOf(key), 'KEY_STATE_DISABLED');
  });

  it('of every kind that rules can concern is done as its requester asked', async () => {
    const permissions = ['keys.destroy', 'roleBindings.create', 'keys.restore'];
    const tenant = await people.tenant();
    const bert = await people.approver(tenant);
    const anna = await people.person(tenant, ['keyAdmin', 'tenantAdmin']);
    await people.setRules(tenant, [{ permissions }]);
    const key = await people.key(tenant);
    const approved = async (method: string, request: object) => {
      const { reason, metadata, message } = await people.rig.ask(anna.caller, method, request);
      assert.equal(reason, 'APPROVAL_REQUIRED', message);
      const name = metadata['operation'] ?? '';
      await people.decided(bert, name);
      await people.until(name, 'DONE');
    };
    await approved('KeyService/ScheduleKeyDestruction', await people.destruction(key));
    await approved('KeyService/RestoreKey', { name: key });
    assert.equal(await people.stateOf(key), 'KEY_STATE_DISABLED');
    const roleBinding = { role: 'roles/encrypter', principal: 'spiffe://keyward.test/new' };
    const parent = `tenants/${tenant}`;
    await approved('AccessService/CreateRoleBinding', { parent, roleBinding });
    await bindingOf(tenant, roleBinding.principal);
  });

  it('that registers a passkey is done by what its requester had answered when they asked', async () => {
    const tenant = await people.tenant();
    const bert = await people.approver(tenant);
    const [anna, key] = [
      await people.person(tenant, ['keyAdmin', 'approver']),
      await people.key(tenant),
    ];
    await people.setRules('system', [{ permissions: ['passkeys.create'] }]);
    try {
      const { request, credentialId } = await people.newPasskey(tenant, anna);
      const asked = await people.rig.ask(anna.caller, 'PasskeyService/RegisterPasskey', request);
      assert.equal(asked.reason, 'APPROVAL_REQUIRED', asked.message);
      await people.decided(bert, asked.metadata['operation'] ?? '');
      await people.until(asked.metadata['operation'] ?? '', 'DONE');
      // It decides from now on.
      const cora = await people.requester(tenant);
      const name = await people.ask(cora, key);
      await people.decided({ ...anna, credentials: [credentialId] }, name);
      await people.until(name, 'DONE');
    } finally {
      await people.setRules('system', []);
    }
  });

  it('that changes the rules themselves holds from then on', async () => {
    const tenant = await people.tenant({ permissions: ['approvalRules.update', 'keys.destroy'] });
    const [anna, bert] = [
      await people.person(tenant, ['tenantAdmin', 'keyAdmin']),
      await people.approver(tenant),
    ];
    const name = `tenants/${tenant}/approvalRules`;
    const { etag } = await people.rig.done('ApprovalService/GetApprovalRules', { name });
    const asked = await people.rig.ask(anna.caller, 'ApprovalService/UpdateApprovalRules', {
      approvalRules: { name, etag, approvalRules: [] },
    });
    assert.equal(asked.reason, 'APPROVAL_REQUIRED', asked.message);
    await people.decided(bert, asked.metadata['operation'] ?? '');
    await people.until(asked.metadata['operation'] ?? '', 'DONE');
    const key = await people.key(tenant);
    await people.rig.done(
      'KeyService/ScheduleKeyDestruction',
      await people.destruction(key),
      anna.caller,
    );
  });

  it('by a rule of the system is approved by that rule, whatever the tenant’s own says', async () => {
    const tenant = await people.tenant({ ruleId: 'of-tenant' });
    const anna = await people.requester(tenant);
    await people.setRules('system', [
      { ruleId: 'of-system', approvals: 2, permissions: ['keys.destroy'] },
    ]);
    try {
      const operation = await people.get(await people.ask(anna, await people.key(tenant)));
      assert.equal(operation.rule, 'tenants/system/approvalRules/of-system');
    } finally {
      await people.setRules('system', []);
    }
  });
});

async function bindingOf(tenant: string, principal: string): Promise<string> {
  const { roleBindings } = await people.rig.done('AccessService/ListRoleBindings', {
    parent: `tenants/${tenant}`,
  });
  const found = (roleBindings as { name: string; principal?: string }[]).find(
    (each) => each.principal === principal,
  );
  assert.ok(found, principal);
  return found.name;
}
