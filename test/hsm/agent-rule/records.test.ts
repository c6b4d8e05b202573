/**
 * What else agents that hold a rule seal and make only as people have approved it: approval rules,
 * passkeys, keys of the token; that tenants keep their names; and which files are no rule.
 */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { SoftwareAuthenticator } from '../../../dev/authenticator.ts';
import { parseRule } from '../../../src/hsm/agent/rule.ts';
import {
  PASSKEY_ALGORITHMS,
  type PasskeyRecord,
  passkeyContent,
} from '../../../src/hsm/approval-records.ts';
import {
  type ApprovalRules,
  formatRules,
  rulesSealContent,
} from '../../../src/hsm/approval-rules.ts';
import { encodeWarrant } from '../../../src/hsm/protocol.ts';
import { RECORD } from '../../../src/hsm/record-seal.ts';
import { encodeTenantName, encodeTenantState } from '../../../src/hsm/tenant-state.ts';
import { createTokenKey, destroyTokenKeys } from '../../../src/hsm/token-commands.ts';
import { type AnyId, newId, type OperationId, type TenantId } from '../../../src/ids.ts';
import {
  ANNA,
  type Approval,
  HOUR,
  newApprover,
  RELYING_PARTY,
  RuleRig,
  ruleOf,
  soon,
  tenantState,
} from './rig.ts';

const REFUSED = { reason: 'AGENT_RULE_NOT_MET' };
const [bert, cora] = [newApprover('bert'), newApprover('cora')];
const BOTH = [{ approver: bert }, { approver: cora }];
const RULE = ruleOf([bert, cora]);

let rig: RuleRig;
before(async () => {
  rig = await RuleRig.start(RULE);
});
after(() => rig?.[Symbol.asyncDispose]());

describe('an agent with a rule seals approval rules', () => {
  const stepUp = {
    permissions: ['keys.destroy'],
    acrValues: ['phrh'],
    amrValues: [],
    maxAgeSeconds: 900,
    exempt: ['spiffe://keyward.test/robot'],
  };
  const approval = {
    ruleId: 'two',
    permissions: [],
    approvals: 2,
    approvers: [
      { kind: 'principal', name: 'spiffe://keyward.test/a' },
      { kind: 'group', name: 'corp/b' },
    ],
    breakGlass: false,
    exempt: [],
  } as const;
  const RULES = { stepUp: [stepUp], approvals: [approval] };
  const asked = {
    name: 'tenants/acme/approvalRules',
    etag: '7',
    stepUpRules: [
      {
        permissions: stepUp.permissions,
        acrValues: stepUp.acrValues,
        exemptPrincipals: stepUp.exempt,
      },
    ],
    approvalRules: [
      {
        ruleId: 'two',
        approvals: 2,
        approvers: ['principal:spiffe://keyward.test/a', 'group:corp/b'],
      },
    ],
  };

  async function replace({
    rules = RULES,
    request = asked,
    revision = 8n,
    isUnapproved = false,
  }: {
    readonly rules?: Pick<ApprovalRules, 'stepUp' | 'approvals'>;
    readonly request?: object;
    readonly revision?: bigint;
    readonly isUnapproved?: boolean;
  } = {}) {
    const tenant = await rig.tenant('acme');
    const { tenantId } = tenant.state;
    const before = formatRules({ stepUp: [], approvals: [], updatedAt: new Date(0) });
    const content = rulesSealContent(
      tenantId,
      revision,
      formatRules({ ...rules, updatedAt: new Date() }),
    );
    const warrant = await rig.warrant({
      method: 'keyward.v1.ApprovalService/UpdateApprovalRules',
      message: { approvalRules: request },
      by: BOTH,
      tenant: tenant.sealed,
    });
    const seal = await rig.sealRecord({
      kind: RECORD.approvalRules,
      before: await rig.sealed(RECORD.approvalRules, rulesSealContent(tenantId, 7n, before)),
      content,
      warrant: isUnapproved ? undefined : warrant,
    });
    return { seal, content };
  }

  it('that two people have approved', async () => {
    const { seal, content } = await replace();
    assert.ok(await rig.isSealed(RECORD.approvalRules, content, seal));
  });

  it('and no others, in the place of no others', async () => {
    const weaker = { ...RULES, approvals: [{ ...approval, approvals: 1 }] };
    const exempt = { ...RULES, approvals: [{ ...approval, exempt: [ANNA] }] };
    for (const situation of [
      { isUnapproved: true },
      { rules: weaker },
      { rules: exempt },
      { rules: { ...RULES, stepUp: [] } },
      { revision: 9n },
      { request: { ...asked, etag: '6' } },
      { request: { ...asked, name: 'tenants/beta/approvalRules' } },
    ])
      await assert.rejects(replace(situation), REFUSED, JSON.stringify(situation, stringsOnly));
  });
});

const stringsOnly = (_: string, value: unknown) => (typeof value === 'bigint' ? `${value}` : value);

describe('an agent with a rule seals a passkey', () => {
  function made(algorithm: 'ES256' | 'EdDSA' | 'RS256', changes: Partial<PasskeyRecord> = {}) {
    const origin = `https://${RELYING_PARTY}`;
    const authenticator = new SoftwareAuthenticator({ rpId: RELYING_PARTY, origin, algorithm });
    const alg = PASSKEY_ALGORITHMS[algorithm];
    const options = { challenge: 'AA', pubKeyCredParams: [{ alg }] };
    const answer = authenticator.create(JSON.stringify(options));
    const { credentialId, clientDataJson, attestationObject } = answer;
    const passkey: PasskeyRecord = {
      credentialId,
      principal: ANNA,
      algorithm: alg,
      publicKey: authenticator.publicKeyOf(credentialId),
      signCount: 0,
      isBackupEligible: false,
      relyingPartyId: RELYING_PARTY,
      aaguid: '00000000-0000-0000-0000-000000000000' as AnyId,
      attestation: 'none',
      displayName: 'a key',
      createdAt: new Date(),
      lastUsedAt: undefined,
      isRemoved: false,
      revision: 1n,
      ...changes,
    };
    const message = { parent: 'tenants/acme', credentialId, clientDataJson, attestationObject };
    return { passkey, message: { ...message, displayName: 'a key' } };
  }
  const REGISTER = 'keyward.v1.PasskeyService/RegisterPasskey';
  const register = async (
    { passkey, message }: ReturnType<typeof made>,
    approval: Partial<Approval> = {},
  ) => {
    const warrant = await rig.warrant({ method: REGISTER, message, by: BOTH, ...approval });
    const content = passkeyContent(passkey);
    return { content, seal: await rig.sealRecord({ ...NEW, content, warrant }) };
  };
  const NEW = { kind: RECORD.passkey, before: undefined };

  for (const algorithm of ['ES256', 'EdDSA', 'RS256'] as const)
    it(`whose registration two people have approved, by ${algorithm}`, async () => {
      const { content, seal } = await register(made(algorithm));
      assert.ok(await rig.isSealed(RECORD.passkey, content, seal));
    });

  it('and none with another key, owner or name than was approved', async () => {
    const other = made('ES256').passkey;
    for (const changes of [
      { publicKey: other.publicKey },
      { credentialId: other.credentialId },
      { principal: 'spiffe://keyward.test/eve' },
      { displayName: 'another' },
      { isBackupEligible: true },
      { signCount: 1 },
      { relyingPartyId: 'evil.example' },
      { createdAt: new Date(Date.now() - HOUR) },
      { lastUsedAt: new Date() },
      { revision: 2n },
      { isRemoved: true },
    ])
      await assert.rejects(register(made('ES256', changes)), REFUSED, Object.keys(changes)[0]);
    await assert.rejects(register(made('ES256'), { by: [{ approver: bert }] }), REFUSED);
  });

  it('that is used, or removed, and none that is changed otherwise or comes back', async () => {
    const { passkey } = made('ES256');
    const before = await rig.sealed(RECORD.passkey, passkeyContent(passkey));
    const changed = (changes: Partial<PasskeyRecord>, from = before) =>
      rig.sealRecord({
        kind: RECORD.passkey,
        before: from,
        content: passkeyContent({ ...passkey, revision: 2n, ...changes }),
        warrant: undefined,
      });
    await changed({ signCount: 7, lastUsedAt: new Date() });
    await changed({ isRemoved: true });
    const { publicKey } = made('ES256').passkey;
    await assert.rejects(changed({ publicKey }), REFUSED);
    await assert.rejects(changed({ principal: 'spiffe://keyward.test/eve' }), REFUSED);
    await assert.rejects(changed({ revision: 3n, signCount: 7 }), REFUSED);
    const removed = passkeyContent({ ...passkey, isRemoved: true, revision: 2n });
    const gone = await rig.sealed(RECORD.passkey, removed);
    await assert.rejects(changed({ isRemoved: false, revision: 3n }, gone), REFUSED);
  });
});

describe('an agent with a rule seals a tenant', () => {
  it('under a UUID that an agent has drawn for its name, and no other', async () => {
    const { sealKeyId } = rig;
    const drawn = await rig.agents.call('nameTenant', { sealKeyId, name: 'new' }, soon());
    const content = Buffer.from(drawn.content);
    const named = { content, sealKeyId, seal: Buffer.from(drawn.seal) };
    const { tenantId } = drawn;
    const first = (name: string, id: TenantId) =>
      encodeTenantState(tenantState(name, { tenantId: id, revision: 1n }));
    const made = { kind: RECORD.tenant, before: named, warrant: undefined };
    const state = first('new', tenantId);
    const seal = await rig.sealRecord({ ...made, content: state });
    assert.ok(await rig.isSealed(RECORD.tenant, state, seal));
    for (const other of [first('system', tenantId), first('new', newId<TenantId>())])
      await assert.rejects(rig.sealRecord({ ...made, content: other }), REFUSED);
    const chosen = first('new', newId<TenantId>());
    await assert.rejects(rig.sealRecord({ ...made, before: undefined, content: chosen }), REFUSED);
    const merely = { sealKeyId, kind: RECORD.tenant, contents: [chosen] };
    await assert.rejects(rig.agents.call('sealRecords', merely, soon()), REFUSED);
    const reserved = { sealKeyId, name: 'system' };
    await assert.rejects(rig.agents.call('nameTenant', reserved, soon()), REFUSED);
    const forged = { ...merely, kind: RECORD.tenantName, contents: [encodeTenantName(ACME)] };
    await assert.rejects(rig.agents.call('sealRecords', forged, soon()), { reason: 'INTERNAL' });
  });

  const ACME = tenantState('acme', { approvalRulesRevision: 5n });

  it('that changes in what it may do, not in which it is, nor back to rules of before', async () => {
    const before = await rig.sealed(RECORD.tenant, encodeTenantState(ACME));
    const changed = (changes: Partial<typeof ACME>) =>
      rig.sealRecord({
        ...{ kind: RECORD.tenant, before, warrant: undefined },
        content: encodeTenantState({ ...ACME, revision: 4n, ...changes }),
      });
    await changed({ state: 'DISABLED' });
    await changed({ approvalRulesRevision: 6n });
    for (const changes of [
      { name: 'system' },
      { tenantId: newId<TenantId>() },
      { revision: 5n },
      { approvalRulesRevision: 4n },
      { approvalRulesRevision: null },
      { dedicatedRootKey: true },
    ])
      await assert.rejects(changed(changes), REFUSED, Object.keys(changes)[0]);
  });
});

describe('an agent with a rule makes a key in the token', () => {
  const ROTATE = { method: 'keyward.v1.HsmService/RotateRootKey', by: BOTH };
  const parent = { parent: 'tenants/system' };

  async function make(
    approval: Partial<Approval> | undefined,
    {
      role = 'root',
      objectId,
    }: { readonly role?: 'root' | 'seal'; readonly objectId?: AnyId } = {},
  ): Promise<void> {
    const { settings, starter } = rig.command;
    const warrant = approval && (await rig.warrant({ ...ROTATE, message: parent, ...approval }));
    await createTokenKey(
      {
        ...settings,
        role,
        objectId: objectId ?? warrant?.operationId ?? newId<AnyId>(),
        ...(warrant && { warrant: encodeWarrant(warrant) }),
      },
      starter,
    );
  }

  it('once, if two people have approved that', async () => {
    const operationId = newId<OperationId>();
    await make({ operationId });
    await assert.rejects(make({ operationId }), /the token has an object with the id/);
  });

  it('and none that nobody has approved, of another role, or a second one', async () => {
    await assert.rejects(make(undefined), REFUSED);
    await assert.rejects(make({ by: [{ approver: bert }] }), REFUSED);
    await assert.rejects(make({}, { role: 'seal' }), REFUSED);
    await assert.rejects(make({}, { objectId: newId<AnyId>() }), REFUSED);
    const CREATE = 'keyward.v1.AdminService/CreateTenant';
    const shared = { method: CREATE, message: { tenantId: 'new' } };
    await assert.rejects(make(shared), REFUSED);
    await make({ ...shared, message: { tenantId: 'new', dedicatedRootKey: true } });
  });

  it('and does nothing that only an operator’s command does', async () => {
    const { settings, starter } = rig.command;
    await assert.rejects(
      destroyTokenKeys({ ...settings, objects: [] }, starter),
      /destroy a token’s keys: this agent holds a rule; run the command in an environment without/,
    );
  });
});

describe('a file that is no rule', () => {
  const good = JSON.parse(JSON.stringify(RULE));
  const [approver] = good.approvers;
  const [passkey] = approver.passkeys;
  const withPasskey = (changes: object) => ({
    ...good,
    approvers: [{ ...approver, passkeys: [{ ...passkey, ...changes }] }, good.approvers[1]],
  });
  const BAD: readonly (readonly [string, unknown, RegExp])[] = [
    ['is no object', [], /the file must be an object/],
    ['has a member more', { ...good, rule: 1 }, /the file has rule, which is not known/],
    ['lacks one', { ...good, approvals: undefined }, /the file has no approvals/],
    ['names nobody', { ...good, approvers: [] }, /approvers must be a list that is not empty/],
    ['names someone twice', { ...good, approvers: [approver, approver] }, /names .*bert twice/],
    [
      'has a passkey twice',
      { ...good, approvers: [approver, { ...approver, name: 'x' }] },
      /has the passkey .* twice/,
    ],
    [
      'wants more people than it names',
      { ...good, approvals: { ...good.approvals, policies: 3 } },
      /policies wants 3 people to approve, and it names 2/,
    ],
    ['lacks a number', { ...good, approvals: { policies: 1 } }, /approvals has no approvalRules/],
    [
      'has no number',
      { ...good, approvals: { ...good.approvals, removals: '0' } },
      /removals must be 0 to 5/,
    ],
    ['has an unknown algorithm', withPasskey({ algorithm: 'none' }), /algorithm must be ES256/],
    ['has no key of its algorithm', withPasskey({ algorithm: 'RS256' }), /no key of its algorithm/],
    ['has a damaged key', withPasskey({ publicKey: 'AAAA' }), /no key of its algorithm/],
    ['has padding', withPasskey({ credentialId: 'AA==' }), /base64url without padding/],
    ['says no more of a device', withPasskey({ deviceBound: 'yes' }), /deviceBound must be/],
  ];
  for (const [what, file, message] of BAD)
    it(what, () => {
      assert.throws(() => parseRule(JSON.stringify(file)), { message });
    });

  it('ends the agent with a word about it, before it does anything', async () => {
    for (const [rule, mode, message] of [
      ['{"approvals":', 0o600, /cannot use the agents’ rule in .*JSON/],
      [JSON.stringify(RULE), 0o622, /cannot use the agents’ rule in .*others can write it/],
    ] as const) {
      const agents = rig.openOthers(rule, mode);
      await assert.rejects(agents.start(), message);
      await agents.stop();
    }
  });
});
