/**
 * Breaking the glass: a rule for emergencies in the place of the one that concerns a call.
 */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { People, type Person } from './people.ts';

const HOUR_S = 3_600;

let people: People;
before(async () => {
  people = await People.start();
});
after(() => people?.[Symbol.asyncDispose]());

const breakGlass = (person: Person, name: string, reason = 'the key has leaked') =>
  people.rig.ask(person.caller, 'ApprovalService/BreakGlass', { name, reason });

/** A tenant with both rules, who asks, and the key’s operation. */
async function asked() {
  const tenant = await people.tenant(
    { ruleId: 'three-persons', approvals: 2 },
    { ruleId: 'emergency', approvals: 1, breakGlass: true },
  );
  const anna = await people.requester(tenant);
  const key = await people.key(tenant);
  return { tenant, anna, key, name: await people.ask(anna, key) };
}

describe('breaking the glass', () => {
  it('puts the operation under the rule for emergencies, and alerts operators', async () => {
    const { tenant, anna, key, name } = await asked();
    const before = await people.get(name);
    assert.equal(before.rule, `tenants/${tenant}/approvalRules/three-persons`);
    const from = people.rig.service.log.length;
    assert.equal((await breakGlass(anna, name)).reason, 'OK');
    const line = await people.rig.service.logged(({ alert }) => alert === 'glass-broken', from);
    assert.equal(line['reason'], 'the key has leaked');
    const broken = await people.get(name);
    assert.equal(broken.rule, `tenants/${tenant}/approvalRules/emergency`);
    assert.ok(broken.isGlassBroken);
    assert.ok(Number(broken.expireTime.seconds) < Number(before.expireTime.seconds) - HOUR_S);
    const entries = await people.entries(name);
    const entry = entries.find(({ method }) => method.endsWith('BreakGlass'));
    assert.equal(JSON.parse(entry?.detail ?? '{}').reason, 'the key has leaked');

    assert.equal(await people.stateOf(key), 'KEY_STATE_ENABLED');
    await people.decided(await people.approver(tenant), name);
    await people.until(name, 'DONE');
    assert.equal(await people.stateOf(key), 'KEY_STATE_DESTROY_SCHEDULED');
  });

  it('leaves no approval that was given before, so that what is signed is this', async () => {
    const { tenant, anna, name } = await asked();
    const bert = await people.approver(tenant);
    const signs = await people.get(name);
    await people.decided(bert, name);
    await breakGlass(anna, name);
    assert.equal((await people.get(name)).state, 'PENDING_OPERATION_STATE_PENDING');
    assert.deepEqual((await people.get(name)).decisions, []);
    const { reason } = await people.decide(bert, name, 'approve', { signs });
    assert.equal(reason, 'ASSERTION_NOT_ACCEPTED');
    await people.decided(bert, name);
    await people.until(name, 'DONE');
  });

  it('is the requester’s alone, who still approves nothing', async () => {
    const { tenant, name } = await asked();
    const bert = await people.approver(tenant);
    assert.equal((await breakGlass(bert, name)).reason, 'PERMISSION_MISSING');
    const dora = await people.person(tenant, ['keyAdmin', 'approver'], 1);
    const own = await people.ask(dora, await people.key(tenant));
    assert.equal((await breakGlass(dora, own)).reason, 'OK');
    assert.equal((await people.decide(dora, own)).reason, 'OWN_OPERATION');
  });

  it('needs a reason, a rule, and glass that is whole', async () => {
    const { anna, name } = await asked();
    assert.equal((await breakGlass(anna, name, ' ')).reason, 'INVALID_FIELD');
    assert.equal((await breakGlass(anna, name)).reason, 'OK');
    assert.equal((await breakGlass(anna, name)).reason, 'NO_GLASS_TO_BREAK');
    const plain = await people.tenant();
    const cora = await people.requester(plain);
    const other = await people.ask(cora, await people.key(plain));
    assert.equal((await breakGlass(cora, other)).reason, 'NO_GLASS_TO_BREAK');
  });

  it('does not put a tenant’s rule in the place of one of the system', async () => {
    const { tenant, anna } = await asked();
    await people.setRules('system', [{ ruleId: 'of-system', approvals: 2 }]);
    try {
      const name = await people.ask(anna, await people.key(tenant));
      assert.equal((await breakGlass(anna, name)).reason, 'NO_GLASS_TO_BREAK');
    } finally {
      await people.setRules('system', []);
    }
  });

  it('does nothing by itself: the rule for emergencies concerns no call', async () => {
    const tenant = await people.tenant({ breakGlass: true });
    const anna = await people.requester(tenant);
    const request = await people.destruction(await people.key(tenant));
    await people.rig.done('KeyService/ScheduleKeyDestruction', request, anna.caller);
  });
});
