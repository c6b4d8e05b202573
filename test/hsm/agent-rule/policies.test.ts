/**
 * Agents that hold a rule seal no policy but one more binding, or role, that people have approved:
 * whatever a server asks of them that was taken over.
 */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { policyDigest } from '../../../src/hsm/policy-lines.ts';
import {
  bindingLine,
  policyContent,
  policyLines,
  roleLine,
  type SealedBinding,
  type SealedRole,
} from '../../../src/hsm/policy-record.ts';
import { RECORD } from '../../../src/hsm/record-seal.ts';
import { newId, type OperationId, type TenantId } from '../../../src/ids.ts';
import { ANNA, type Approval, HOUR, newApprover, RuleRig, ruleOf, soon } from './rig.ts';

const REFUSED = { reason: 'AGENT_RULE_NOT_MET' };
const EVE = 'spiffe://keyward.test/eve';
const CREATE = 'keyward.v1.AccessService/CreateRoleBinding';
const [bert, cora, dora] = [newApprover('bert', 2), newApprover('cora'), newApprover('dora')];
const BOTH = [{ approver: bert }, { approver: cora }];

let rig: RuleRig;
before(async () => {
  rig = await RuleRig.start(ruleOf([bert, cora, newApprover('anna')]));
});
after(() => rig?.[Symbol.asyncDispose]());

const long = () => new Date(Date.now() - 24 * HOUR);
function bindingFor(name: string, changes: Partial<SealedBinding> = {}): SealedBinding {
  return {
    bindingId: 'b-new',
    member: { kind: 'principal', name },
    role: 'roles/keyAdmin',
    keyPattern: '',
    allTenants: false,
    expiresAt: null,
    conditions: [],
    overridesSeparation: false,
    description: '',
    createdAt: new Date(),
    creator: ANNA,
    ...changes,
  };
}
const OLD = bindingFor('spiffe://keyward.test/old', { bindingId: 'b-old', createdAt: long() });

/** What a change is tried with: what differs from one that is approved. */
interface Situation {
  readonly approval?: Partial<Approval>;
  /** What is to be sealed, where it is not what was approved. */
  readonly binding?: Partial<SealedBinding>;
  readonly before?: readonly SealedBinding[];
  /** The lines that are said to be those before. */
  readonly said?: readonly SealedBinding[];
  readonly isUnapproved?: boolean;
}

/** Asks for a binding to be added to a tenant's policy of before. */
async function add({ approval = {}, isUnapproved = false, ...situation }: Situation = {}) {
  const { before: bindings = [OLD], said = bindings } = situation;
  const tenant = await rig.tenant('acme');
  const { tenantId } = tenant.state;
  const content = policyContent(tenantId, 4n, { bindings, roles: [] });
  const added = bindingFor('spiffe://keyward.test/new', situation.binding);
  const roleBinding = { principal: 'spiffe://keyward.test/new', role: 'roles/keyAdmin' };
  const warrant = await rig.warrant({
    method: CREATE,
    message: { parent: 'tenants/acme', roleBindingId: 'b-new', roleBinding },
    by: BOTH,
    tenant: tenant.sealed,
    ...approval,
  });
  const seal = await rig.sealPolicy({
    tenantId,
    before: await rig.sealed(RECORD.policy, content),
    lines: policyLines({ bindings: said, roles: [] }),
    isAdded: 1,
    line: Buffer.from(bindingLine(added)),
    warrant: isUnapproved ? undefined : warrant,
  });
  const after = policyContent(tenantId, 5n, { bindings: [...bindings, added], roles: [] });
  return { seal, after };
}

describe('an agent with a rule seals a policy', () => {
  it('with one more binding that two people have approved', async () => {
    const { seal, after } = await add();
    assert.ok(await rig.isSealed(RECORD.policy, after, seal));
  });

  it('with a binding to whom, when and under which conditions was approved', async () => {
    const expiresAt = new Date('2031-02-03T04:05:06.789Z');
    const { seal, after } = await add({
      approval: {
        message: {
          parent: 'tenants/acme',
          roleBindingId: 'b-new',
          roleBinding: {
            group: 'corp/ops',
            role: 'roles/decrypter',
            keyPattern: 'orders-*',
            expireTime: { seconds: expiresAt.getTime() / 1000 - 0.789, nanos: 789_000_000 },
            conditions: [
              { contextKey: 'a', equals: 'x' },
              { contextKey: 'b', oneOf: { values: ['y', 'ü'] } },
              { contextKey: 'c', claim: { path: ['sub'] } },
            ],
            overrideSeparationOfDuties: true,
            description: 'why',
          },
        },
      },
      binding: {
        member: { kind: 'group', name: 'corp/ops' },
        role: 'roles/decrypter',
        keyPattern: 'orders-*',
        expiresAt,
        conditions: [
          { contextKey: 'a', requirement: { kind: 'equals', value: 'x' } },
          { contextKey: 'b', requirement: { kind: 'oneOf', values: ['y', 'ü'] } },
          { contextKey: 'c', requirement: { kind: 'claim', path: ['sub'] } },
        ],
        overridesSeparation: true,
        description: 'why',
      },
    });
    assert.ok(await rig.isSealed(RECORD.policy, after, seal));
  });

  it('that is the tenant’s first, and with the operation’s id where none was chosen', async () => {
    const tenant = await rig.tenant('acme');
    const { tenantId } = tenant.state;
    const operationId = newId<OperationId>();
    const bindingId = `b${operationId.replaceAll('-', '')}`;
    const added = bindingFor('spiffe://keyward.test/new', { bindingId });
    const roleBinding = { principal: added.member.name, role: added.role };
    const change = { tenantId, before: undefined, lines: Buffer.alloc(0), isAdded: 1 };
    const approval = { method: CREATE, by: BOTH, tenant: tenant.sealed, operationId };
    const message = { parent: 'tenants/acme', roleBinding };
    const warrant = await rig.warrant({ ...approval, message });
    const line = Buffer.from(bindingLine(added));
    const seal = await rig.sealPolicy({ ...change, line, warrant });
    const after = policyContent(tenantId, 1n, { bindings: [added], roles: [] });
    assert.ok(await rig.isSealed(RECORD.policy, after, seal));
    const another = Buffer.from(bindingLine({ ...added, bindingId: 'b-another' }));
    await assert.rejects(rig.sealPolicy({ ...change, line: another, warrant }), REFUSED);
  });

  it('with one more role, and without a binding, which nobody had to approve', async () => {
    const tenant = await rig.tenant('acme');
    const { tenantId } = tenant.state;
    const role: SealedRole = {
      roleId: 'rewrapper',
      permissions: ['rewrapJobs.create', 'rewrapJobs.get'],
      description: 'd',
      createdAt: new Date(),
      creator: ANNA,
    };
    const bindings = [OLD];
    const content = policyContent(tenantId, 1n, { bindings, roles: [] });
    const { permissions, description } = role;
    const warrant = await rig.warrant({
      method: 'keyward.v1.AccessService/CreateRole',
      message: {
        parent: 'tenants/acme',
        roleId: 'rewrapper',
        role: { permissions, description },
      },
      by: BOTH,
      tenant: tenant.sealed,
    });
    const lines = policyLines({ bindings, roles: [] });
    const before = await rig.sealed(RECORD.policy, content);
    const line = Buffer.from(roleLine(role));
    const seal = await rig.sealPolicy({ tenantId, before, lines, isAdded: 1, line, warrant });
    const both = policyContent(tenantId, 2n, { bindings, roles: [role] });
    assert.ok(await rig.isSealed(RECORD.policy, both, seal));
    const { sealKeyId } = rig;
    const without = await rig.sealPolicy({
      tenantId,
      before: { content: both, sealKeyId, seal },
      lines: policyLines({ bindings, roles: [role] }),
      isAdded: 0,
      line: Buffer.from(bindingLine(OLD)),
      warrant: undefined,
    });
    const after = policyContent(tenantId, 3n, { bindings: [], roles: [role] });
    assert.ok(await rig.isSealed(RECORD.policy, after, without));
  });

  it('again as it is, under another seal key or the same', async () => {
    const content = policyContent(newId<TenantId>(), 1n, { bindings: [OLD], roles: [] });
    const { seal, sealKeyId } = await rig.sealed(RECORD.policy, content);
    const request = { formerKeyId: sealKeyId, sealKeyId, kind: RECORD.policy };
    const same = { ...request, items: [{ content, seal }] };
    const { seals } = await rig.agents.call('resealRecords', same, soon());
    assert.deepEqual(seals[0], seal);
    const other = policyContent(newId<TenantId>(), 1n, { bindings: [OLD], roles: [] });
    const forged = { ...request, items: [{ content: other, seal }] };
    await assert.rejects(rig.agents.call('resealRecords', forged, soon()), {
      reason: 'STORED_ROW_CORRUPT',
    });
  });
});

const yesterday = new Date(Date.now() - 2 * HOUR);
const MISTAKES: readonly (readonly [string, Situation])[] = [
  ['nobody has approved', { isUnapproved: true }],
  ['one person has approved', { approval: { by: [{ approver: bert }] } }],
  ['one person has approved twice', { approval: { by: [{ approver: bert }, { approver: bert }] } }],
  [
    'one person has approved by two passkeys',
    {
      approval: {
        by: bert.credentials.map((credential) => ({ approver: bert, credential })),
      },
    },
  ],
  [
    'one of two has approved whom the rule does not name',
    { approval: { by: [{ approver: bert }, { approver: dora }] } },
  ],
  ['one of two who approved has asked for', { approval: { requester: bert.name } }],
  ['people have rejected', { approval: { decision: 'reject' } }],
  [
    'people have approved for another requester',
    { approval: { signed: { requester: 'spiffe://keyward.test/else' } } },
  ],
  [
    'people have approved another request',
    { approval: { signed: { requestDigest: Buffer.alloc(32) } } },
  ],
  [
    'people have approved as another operation',
    { approval: { signed: { operationId: newId<OperationId>() } } },
  ],
  ['people have approved without proof of who they are', { approval: { userVerified: false } }],
  ['was approved for a time that is over', { approval: { expiresAt: yesterday } }],
  ['was approved for ever', { approval: { expiresAt: new Date(Date.now() + 30 * 24 * HOUR) } }],
  [
    'was approved by another method',
    {
      approval: {
        method: 'keyward.v1.AccessService/DeleteRoleBinding',
        message: { name: 'tenants/acme/roleBindings/b-new' },
      },
    },
  ],
  [
    'was approved in another tenant',
    {
      approval: {
        message: {
          parent: 'tenants/beta',
          roleBindingId: 'b-new',
          roleBinding: { principal: 'spiffe://keyward.test/new', role: 'roles/keyAdmin' },
        },
      },
    },
  ],
  ['gives somebody else', { binding: { member: { kind: 'principal', name: EVE } } }],
  ['gives another role', { binding: { role: 'roles/rootAdmin' } }],
  ['gives in all tenants', { binding: { allTenants: true } }],
  ['has another id', { binding: { bindingId: 'b-else' } }],
  ['expires later', { binding: { expiresAt: new Date(Date.now() + HOUR) } }],
  ['is said to be another’s', { binding: { creator: EVE } }],
  ['is said to be of long ago', { binding: { createdAt: long() } }],
  [
    'comes beside another that nobody has approved',
    { said: [OLD, bindingFor(EVE, { bindingId: 'b-eve' })] },
  ],
  ['comes in the place of another', { said: [] }],
];

describe('an agent with a rule seals no policy whose new binding', () => {
  for (const [what, situation] of MISTAKES)
    it(what, async () => {
      await assert.rejects(add(situation), REFUSED);
    });

  it('was approved, where two come at once', async () => {
    const tenant = await rig.tenant('acme');
    const { tenantId } = tenant.state;
    const approved = bindingFor('spiffe://keyward.test/new');
    const roleBinding = { principal: approved.member.name, role: approved.role };
    const warrant = await rig.warrant({
      method: CREATE,
      message: { parent: 'tenants/acme', roleBindingId: 'b-new', roleBinding },
      by: BOTH,
      tenant: tenant.sealed,
    });
    const lines = `${bindingLine(approved)}\n${bindingLine(bindingFor(EVE, { bindingId: 'c' }))}`;
    const request = { tenantId, before: undefined, lines: Buffer.alloc(0), isAdded: 1, warrant };
    await assert.rejects(rig.sealPolicy({ ...request, line: Buffer.from(lines) }), {
      reason: 'INTERNAL',
    });
  });

  it('was approved for a tenant that a server has given another’s UUID', async () => {
    const acme = await rig.tenant('acme');
    const { tenantId } = acme.state;
    const added = bindingFor('spiffe://keyward.test/new');
    const roleBinding = { principal: added.member.name, role: added.role };
    const approval = {
      method: CREATE,
      message: { parent: 'tenants/sandbox', roleBindingId: 'b-new', roleBinding },
      by: BOTH,
    };
    const sandbox = (await rig.tenant('sandbox')).sealed;
    const forged = { ...sandbox, content: Buffer.from(sandbox.content) };
    acme.sealed.content.copy(forged.content, 0, 0, 16);
    for (const tenant of [sandbox, forged, acme.sealed]) {
      const warrant = await rig.warrant({ ...approval, tenant });
      const line = Buffer.from(bindingLine(added));
      const change = { tenantId, before: undefined, lines: Buffer.alloc(0), isAdded: 1 };
      await assert.rejects(rig.sealPolicy({ ...change, line, warrant }), REFUSED);
    }
  });
});

describe('an agent with a rule', () => {
  it('seals no policy merely because it is told to', async () => {
    const content = policyContent(newId<TenantId>(), 9n, { bindings: [OLD], roles: [] });
    const request = { sealKeyId: rig.sealKeyId, kind: RECORD.policy, contents: [content] };
    await assert.rejects(rig.agents.call('sealRecords', request, soon()), REFUSED);
  });

  it('takes nothing out of a policy that it has seen a later one of', async () => {
    const tenantId = newId<TenantId>();
    const sealedAt = (revision: bigint, bindings: readonly SealedBinding[]) =>
      rig.sealed(RECORD.policy, policyContent(tenantId, revision, { bindings, roles: [] }));
    const powerful = [OLD, bindingFor(EVE, { bindingId: 'b-eve' })];
    const [former, latest] = [await sealedAt(4n, powerful), await sealedAt(5n, [OLD])];
    const { sealKeyId } = rig;
    const verify = { sealKeyId, kind: RECORD.policy, items: [latest] };
    await rig.agents.call('verifyRecords', verify, soon());
    const lines = policyLines({ bindings: powerful, roles: [] });
    const removal = { tenantId, lines, isAdded: 0, warrant: undefined };
    const line = Buffer.from(bindingLine(OLD));
    await assert.rejects(rig.sealPolicy({ ...removal, before: former, line }), REFUSED);
    const first = { ...removal, before: undefined, lines: Buffer.alloc(0), isAdded: 1, line };
    await assert.rejects(rig.sealPolicy(first), /what is said to be new was there before/);
  });

  it('takes no line for another, nor a policy that nobody has sealed', async () => {
    const tenantId = newId<TenantId>();
    const lines = policyLines({ bindings: [OLD], roles: [] });
    const content = policyDigest(tenantId, 4n, lines);
    const { sealKeyId } = rig;
    const removal = { tenantId, lines, isAdded: 0, warrant: undefined };
    const line = Buffer.from(bindingLine(OLD));
    const forged = { content, sealKeyId, seal: Buffer.alloc(32) };
    await assert.rejects(rig.sealPolicy({ ...removal, before: forged, line }), REFUSED);
    const another = Buffer.from(bindingLine({ ...OLD, role: 'roles/auditor' }));
    const before = await rig.sealed(RECORD.policy, content);
    await assert.rejects(rig.sealPolicy({ ...removal, before, line: another }), {
      reason: 'INTERNAL',
    });
  });
});
