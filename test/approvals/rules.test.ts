/**
 * Approval rules over the wire: who may set them, which ones are taken, and what is kept of them.
 */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { AccessRig, type Caller } from '../access/access-rig.ts';
import { eventually } from '../support/kit.ts';
import { QUICK, sql } from '../support/reconciling.ts';
import { TESTER } from '../support/tester.ts';
import { RELYING_PARTY, registerPasskeys } from './people.ts';

const ALICE = 'jwt:corp/alice';
const BOB = 'jwt:corp/bob';
const WORKLOAD = 'spiffe://keyward.test/batch';

/** Rules in which every field says something. */
const FULL = {
  stepUpRules: [
    {
      permissions: ['keys.destroy', 'data.decrypt'],
      acrValues: ['urn:mace:incommon:iap:silver', 'phr'],
      amrValues: ['mfa', 'hwk'],
      maxAge: { seconds: 300 },
      exemptPrincipals: [WORKLOAD],
    },
  ],
  approvalRules: [
    {
      ruleId: 'shred',
      permissions: ['tenants.shred'],
      approvals: 2,
      approvers: [`principal:${ALICE}`, 'group:corp/officers'],
      breakGlass: false,
      exemptPrincipals: [WORKLOAD],
    },
  ],
};

let rig: AccessRig;
let made = 0;

before(async () => {
  rig = await AccessRig.start({ ...QUICK, KEYWARD_RELYING_PARTY_ID: RELYING_PARTY });
  await registerPasskeys(rig, [alice(), { name: BOB, caller: rig.tokened('bob', ['acme']) }]);
});

after(() => rig?.[Symbol.asyncDispose]());

const alice = () => ({ name: ALICE, caller: rig.tokened('alice', ['acme']) });

/** A tenant in which no rules were ever set. */
async function newTenant(): Promise<string> {
  made += 1;
  const tenantId = `t${made}`;
  await rig.done('AdminService/CreateTenant', { tenantId });
  return `tenants/${tenantId}/approvalRules`;
}

const get = (name: string) => rig.done('ApprovalService/GetApprovalRules', { name });
const set = (name: string, rules: object, caller: Caller = rig.tester, more: object = {}) =>
  rig.ask(caller, 'ApprovalService/UpdateApprovalRules', {
    approvalRules: { name, ...rules },
    ...more,
  });

test('rules are none where none were set, and read back as they were set', async () => {
  const name = await newTenant();
  const none = await get(name);
  assert.deepEqual(none['stepUpRules'], []);
  assert.deepEqual(none['approvalRules'], []);
  assert.deepEqual([none['etag'], Number(none['revision'])], ['0', 0]);
  const changed = await set(name, FULL);
  assert.equal(changed.reason, 'OK', changed.message);
  const read = await get(name);
  const [stepUp] = read['stepUpRules'] as Record<string, unknown>[];
  assert.deepEqual(stepUp, { ...FULL.stepUpRules[0], maxAge: stepUp?.['maxAge'] });
  assert.equal(Number((stepUp['maxAge'] as { seconds: unknown }).seconds), 300);
  assert.deepEqual(read['approvalRules'], FULL.approvalRules);
  assert.deepEqual([read['etag'], Number(read['revision'])], ['1', 1]);
  assert.ok(read['updateTime']);
});

test('rules are replaced by who has read them, as a whole, and a step-up is 15 minutes old at most unless it says otherwise', async () => {
  const name = await newTenant();
  assert.equal((await set(name, FULL)).reason, 'OK');
  assert.equal((await set(name, FULL)).reason, 'INVALID_FIELD');
  assert.equal((await set(name, { ...FULL, etag: '0' })).reason, 'ETAG_MISMATCH');
  const replaced = await set(name, {
    ...{ etag: '1', stepUpRules: [{ exemptPrincipals: [TESTER] }] },
  });
  assert.equal(replaced.reason, 'OK', replaced.message);
  const { stepUpRules, approvalRules } = await get(name);
  const [{ maxAge, permissions }] = stepUpRules as [Record<string, unknown>];
  assert.equal(Number((maxAge as { seconds: unknown }).seconds), 900);
  assert.deepEqual([permissions, approvalRules], [[], []]);
});

test('to validate is to be answered as the change would be, and to change nothing', async () => {
  const name = await newTenant();
  const looked = await set(name, FULL, rig.tester, { validateOnly: true });
  assert.deepEqual([looked.reason, Number(looked.answer['revision'])], ['OK', 1]);
  assert.equal(Number((await get(name))['revision']), 0);
  const wrong = await set(name, { etag: '7' }, rig.tester, { validateOnly: true });
  assert.equal(wrong.reason, 'ETAG_MISMATCH');
});

test('rules are read from every replica within 2 s of a change', async () => {
  const name = await newTenant();
  await using other = await rig.addReplica();
  const readThere = () => rig.ask(rig.tester, 'ApprovalService/GetApprovalRules', { name }, other);
  assert.equal((await readThere()).answer['etag'], '0');
  assert.equal((await set(name, FULL)).reason, 'OK');
  await eventually(async () => assert.equal((await readThere()).answer['etag'], '1'));
});

test('the entry of a change has the rules before and after, and their revision', async () => {
  const name = await newTenant();
  await set(name, FULL);
  await set(name, { etag: '1' });
  const entries = (await rig.audited()).filter(
    ({ resource, outcome }) => resource === name && outcome === 'OK',
  );
  const { stepUpRules, approvalRules } = FULL;
  const content = {
    stepUp: stepUpRules.map(({ maxAge, exemptPrincipals, ...rule }) => ({
      ...{ ...rule, maxAgeSeconds: maxAge.seconds, exempt: exemptPrincipals },
    })),
    approvals: approvalRules.map(({ exemptPrincipals, ...rule }) => ({
      ...{ ...rule, exempt: exemptPrincipals },
      approvers: [
        { kind: 'principal', name: ALICE },
        { kind: 'group', name: 'corp/officers' },
      ],
    })),
  };
  const none = { stepUp: [], approvals: [] };
  assert.deepEqual(
    entries.map(({ change }) => change),
    [
      { kind: 'approvalRules', after: content, rulesRevision: '1' },
      { kind: 'approvalRules', before: content, after: none, rulesRevision: '2' },
    ],
  );
});

describe('rules that cannot be are refused, and name what is wrong', () => {
  const approval = { ruleId: 'r', approvals: 1 };
  const many = (count: number, text: string) => Array.from({ length: count }, () => text);
  const refused: readonly (readonly [string, object, RegExp])[] = [
    ['an unknown permission', { stepUpRules: [{ permissions: ['keys.eat'] }] }, /a permission/],
    [
      'an approval of what is not dangerous',
      { approvalRules: [{ ...approval, permissions: ['keys.get'] }] },
      /rule r must not name keys\.get, which is not marked as dangerous/,
    ],
    ['no approval', { approvalRules: [{ ...approval, approvals: 0 }] }, /1 to 5/],
    ['six approvals', { approvalRules: [{ ...approval, approvals: 6 }] }, /1 to 5/],
    ['a rule without a name', { approvalRules: [{ approvals: 1 }] }, /must match/],
    ['two rules of one name', { approvalRules: [approval, approval] }, /a rule_id of its own/],
    ['51 rules', { stepUpRules: Array.from({ length: 51 }, () => ({})) }, /more than 50/],
    [
      'an approver who is nobody',
      { approvalRules: [{ ...approval, approvers: ['alice'] }] },
      /principal:\{caller\}/,
    ],
    [
      'a group of no issuer',
      { approvalRules: [{ ...approval, approvers: ['group:officers'] }] },
      /group:\{issuer\}/,
    ],
    [
      'one approver who would have to approve what they ask for',
      { approvalRules: [{ ...approval, approvers: [`principal:${ALICE}`] }] },
      /rule r must name at least 2 approvers/,
    ],
    [
      'one approver twice',
      { approvalRules: [{ ...approval, approvers: many(2, `principal:${ALICE}`) }] },
      /at least 2 approvers/,
    ],
    ['a step-up of a moment', { stepUpRules: [{ maxAge: { seconds: 59 } }] }, /60 to 86400/],
    ['a step-up of days', { stepUpRules: [{ maxAge: { seconds: 86_401 } }] }, /60 to 86400/],
    ['an acr that no header can have', { stepUpRules: [{ acrValues: ['a"b'] }] }, /acr_values/],
    ['an amr with a space', { stepUpRules: [{ amrValues: ['mfa hwk'] }] }, /amr_values/],
    [
      'a name that is no caller’s',
      { stepUpRules: [{ exemptPrincipals: ['\u202ea'] }] },
      /caller’s name/,
    ],
    [
      'more text than a replica is to hold',
      {
        stepUpRules: Array.from({ length: 3 }, () => ({
          permissions: ['keys.get'],
          exemptPrincipals: many(100, 'x'.repeat(256)),
        })),
      },
      /at most 65536 bytes/,
    ],
  ];
  for (const [what, rules, message] of refused)
    test(what, async () => {
      const name = await newTenant();
      const outcome = await set(name, rules);
      assert.equal(outcome.reason, 'INVALID_FIELD');
      assert.match(outcome.message, message);
      assert.match(outcome.message, /^approval_rules: /);
    });

  test('but two approvers of whom each can approve what the other asks for are enough', async () => {
    const approvers = [`principal:${ALICE}`, `principal:${BOB}`];
    const outcome = await set(await newTenant(), { approvalRules: [{ ...approval, approvers }] });
    assert.equal(outcome.reason, 'OK', outcome.message);
  });
});

describe('rules that want more approvals than others have passkeys to give are refused', () => {
  const name = 'tenants/acme/approvalRules';
  const look = (rule: object, caller = rig.tester) =>
    set(name, { approvalRules: [{ ruleId: 'r', ...rule }] }, caller, { validateOnly: true });

  test('where anyone may approve, or a group', async () => {
    for (const approvers of [[], ['group:corp/officers']]) {
      assert.equal((await look({ approvals: 2, approvers })).reason, 'OK');
      const { reason, status, message, metadata } = await look({ approvals: 3, approvers });
      assert.deepEqual([reason, status], ['PASSKEYS_MISSING', 9]);
      assert.deepEqual(metadata, { rule: 'r', approvals: '3', people: '2' });
      assert.match(message, /the approval rule r: it wants 3 .* 2 people have a passkey/);
    }
  });

  test('where the rule names its approvers, by those', async () => {
    const named = (...people: string[]) => ({ approvers: people.map((who) => `principal:${who}`) });
    const some = await look({ approvals: 2, ...named(ALICE, WORKLOAD, TESTER) });
    assert.equal(some.reason, 'PASSKEYS_MISSING');
    assert.equal(some.metadata['people'], '1');
    assert.equal((await look({ approvals: 1, ...named(ALICE, WORKLOAD) })).reason, 'OK');
  });

  test('without counting who sets them, whom they would keep from setting others', async () => {
    await rig.bind('acme', ALICE, 'tenantAdmin');
    const { caller } = alice();
    assert.equal((await look({ approvals: 1 }, caller)).reason, 'OK');
    const both = await look({ approvals: 2 }, caller);
    assert.deepEqual([both.reason, both.metadata['people']], ['PASSKEYS_MISSING', '1']);
  });

  test('without counting passkeys that were removed', async () => {
    const carol = 'spiffe://keyward.test/carol';
    const caller = rig.certified(carol);
    await registerPasskeys(rig, [{ name: carol, caller }]);
    assert.equal((await look({ approvals: 3 })).reason, 'OK');
    const { passkeys } = await rig.done('PasskeyService/ListPasskeys', {}, caller);
    const [passkey] = passkeys as { readonly name: string }[];
    await rig.done('PasskeyService/DeletePasskey', { name: passkey?.name });
    assert.equal((await look({ approvals: 3 })).reason, 'PASSKEYS_MISSING');
  });

  test('when they are set as when they are validated, and nothing is changed', async () => {
    const fresh = await newTenant();
    const refused = await set(fresh, { approvalRules: [{ ruleId: 'r', approvals: 5 }] });
    assert.equal(refused.reason, 'PASSKEYS_MISSING');
    assert.equal(Number((await get(fresh))['revision']), 0);
  });

  test('and all of them by a service that takes no passkeys, but not step-up rules', async () => {
    await using bare = await rig.addReplica({ KEYWARD_RELYING_PARTY_ID: '' });
    const there = (rules: object) =>
      rig.ask(
        rig.tester,
        'ApprovalService/UpdateApprovalRules',
        { approvalRules: { name, ...rules }, validateOnly: true },
        bare,
      );
    const { reason } = await there({ approvalRules: [{ ruleId: 'r', approvals: 1 }] });
    assert.equal(reason, 'PASSKEYS_NOT_CONFIGURED');
    assert.equal((await there({ stepUpRules: FULL.stepUpRules })).reason, 'OK');
  });
});

test('a tenant’s administrators set its rules, and those of all tenants only who manages access everywhere', async () => {
  const name = await newTenant();
  const [, tenant = ''] = name.split('/');
  const local = rig.certified('spiffe://keyward.test/local-admin');
  await rig.bind(tenant, 'spiffe://keyward.test/local-admin', 'tenantAdmin');
  assert.equal((await set(name, {}, local)).reason, 'OK');
  const inSystem = rig.certified('spiffe://keyward.test/system-tenant-admin');
  await rig.bind('system', 'spiffe://keyward.test/system-tenant-admin', 'tenantAdmin');
  const denied = await set('tenants/system/approvalRules', {}, inSystem);
  assert.equal(denied.reason, 'PERMISSION_MISSING');
  assert.match(denied.message, /approvalRules\.updateForAllTenants/);
  const root = rig.certified('spiffe://keyward.test/root-admin');
  await rig.bind('system', 'spiffe://keyward.test/root-admin', 'rootAdmin');
  assert.equal((await set('tenants/system/approvalRules', {}, root)).reason, 'OK');
});

test('when the seal key is replaced, rules come under the new one, and stay as they were', async () => {
  const name = await newTenant();
  await set(name, FULL);
  const before = await get(name);
  const sealedBy = async () => {
    const rows = await sql<{ id: string }>(
      rig.environment,
      'SELECT DISTINCT seal_key_id AS id FROM approval_rules',
    );
    return rows.map(({ id }) => id);
  };
  const former = await sealedBy();
  await rig.done('HsmService/RotateSealKey', {});
  await eventually(async () => {
    const [current] = await sql<{ id: string }>(
      rig.environment,
      `SELECT object_id AS id FROM token_objects WHERE role = 'seal' AND is_current`,
    );
    assert.notDeepEqual([current?.id], former);
    assert.deepEqual(await sealedBy(), [current?.id]);
  });
  assert.deepEqual(await get(name), before);
});
