/**
 * For any binding, and any policy: an agent takes for approved what the service makes of a request,
 * and nothing else; and a policy with a line more, or less, is the one that the service seals.
 */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { requireBindingOrRole } from '../../../src/hsm/agent/approved-changes.ts';
import type { Approved } from '../../../src/hsm/agent/warrant.ts';
import { parseCanonicalJson } from '../../../src/hsm/canonical-json.ts';
import { withLine, withoutLine } from '../../../src/hsm/policy-lines.ts';
import {
  bindingLine,
  policyLines,
  roleLine,
  type SealedBinding,
  type SealedRole,
} from '../../../src/hsm/policy-record.ts';
import { newId, type OperationId, type SealKeyId } from '../../../src/ids.ts';
import { ANNA, canonical } from './rig.ts';

const id = fc.stringMatching(/^[a-z][a-z0-9-]{0,6}[a-z0-9]$/);
const text = fc.string({ unit: 'grapheme', maxLength: 12 });
const name = text.filter((each) => each !== '');
const requirement = fc.oneof(
  fc.record({ kind: fc.constant('equals' as const), value: text }),
  fc.record({ kind: fc.constant('oneOf' as const), values: fc.array(text, { minLength: 1 }) }),
  fc.record({ kind: fc.constant('claim' as const), path: fc.array(name, { minLength: 1 }) }),
);
const binding: fc.Arbitrary<SealedBinding> = fc.record({
  bindingId: id,
  member: fc.record({ kind: fc.constantFrom('principal', 'group'), name }),
  role: fc.constantFrom('roles/keyAdmin', 'roles/rootAdmin', 'tenants/acme/roles/own'),
  keyPattern: fc.constantFrom('', 'orders', 'orders-*'),
  allTenants: fc.boolean(),
  expiresAt: fc.option(
    fc.date({ min: new Date(0), max: new Date('9999-01-01'), noInvalidDate: true }),
  ),
  conditions: fc.array(fc.record({ contextKey: name, requirement }), { maxLength: 3 }),
  overridesSeparation: fc.boolean(),
  description: text,
  createdAt: fc.constant(new Date()),
  creator: fc.constant(ANNA),
});
const role: fc.Arbitrary<SealedRole> = fc.record({
  roleId: id,
  permissions: fc.array(fc.constantFrom('keys.get', 'keys.create'), { minLength: 1 }),
  description: text,
  createdAt: fc.constant(new Date()),
  creator: fc.constant(ANNA),
});

const METHOD = 'keyward.v1.AccessService/CreateRoleBinding';

/** The request that asks for a binding, as if people had approved it. */
function approvalOf(asked: SealedBinding): Approved {
  const { bindingId, member, expiresAt, conditions, overridesSeparation, ...rest } = asked;
  const { createdAt: _, creator: __, ...binding } = rest;
  const seconds = expiresAt && Math.floor(expiresAt.getTime() / 1_000);
  const message = {
    parent: 'tenants/acme',
    roleBindingId: bindingId,
    roleBinding: {
      ...binding,
      [member.kind]: member.name,
      ...(expiresAt && {
        expireTime: { seconds, nanos: (expiresAt.getTime() - (seconds ?? 0) * 1_000) * 1e6 },
      }),
      conditions: conditions.map(({ contextKey, requirement: wanted }) => ({
        contextKey,
        ...(wanted.kind === 'equals' && { equals: wanted.value }),
        ...(wanted.kind === 'oneOf' && { oneOf: { values: wanted.values } }),
        ...(wanted.kind === 'claim' && { claim: { path: wanted.path } }),
      })),
      overrideSeparationOfDuties: overridesSeparation,
    },
  };
  return {
    operationId: newId<OperationId>(),
    method: METHOD,
    requester: ANNA,
    expiresAt: new Date(),
    tenant: { content: Buffer.alloc(0), sealKeyId: newId<SealKeyId>(), seal: Buffer.alloc(0) },
    request: parseCanonicalJson(canonical(METHOD, message)),
  };
}

describe('an agent', () => {
  it('takes a binding for the one that was approved, whatever is in it', () => {
    fc.assert(
      fc.property(binding, (asked) => {
        assert.equal(requireBindingOrRole(approvalOf(asked), bindingLine(asked)), 'tenants/acme');
      }),
    );
  });

  it('takes no binding for approved that differs from it in anything', () => {
    fc.assert(
      fc.property(
        binding,
        binding,
        fc.constantFrom<(keyof SealedBinding)[]>(
          ...([
            ['bindingId'],
            ['member'],
            ['role'],
            ['keyPattern'],
            ['allTenants'],
            ['expiresAt'],
            ['conditions'],
            ['overridesSeparation'],
            ['description'],
          ] as (keyof SealedBinding)[][]),
        ),
        (asked, other, changed) => {
          const mixed = { ...asked };
          for (const key of changed) Object.assign(mixed, { [key]: other[key] });
          fc.pre(bindingLine(mixed) !== bindingLine(asked));
          assert.throws(() => requireBindingOrRole(approvalOf(asked), bindingLine(mixed)), {
            kind: 'not-approved',
          });
        },
      ),
    );
  });

  it('makes of a policy and a line what the service seals, and back', () => {
    const policy = fc.record({
      bindings: fc.uniqueArray(binding, { selector: ({ bindingId }) => bindingId, maxLength: 6 }),
      roles: fc.uniqueArray(role, { selector: ({ roleId }) => roleId, maxLength: 3 }),
    });
    fc.assert(
      fc.property(policy, binding, role, ({ bindings, roles }, added, own) => {
        fc.pre(!bindings.some(({ bindingId }) => bindingId === added.bindingId));
        fc.pre(!roles.some(({ roleId }) => roleId === own.roleId));
        fc.pre(!bindings.some(({ role: given }) => given.endsWith(`/${own.roleId}`)));
        const lines = policyLines({ bindings, roles });
        const more = policyLines({ bindings: [...bindings, added], roles });
        assert.deepEqual(withLine(lines, bindingLine(added)), more);
        assert.deepEqual(withoutLine(more, bindingLine(added)), lines);
        const withRole = policyLines({ bindings, roles: [...roles, own] });
        assert.deepEqual(withLine(lines, roleLine(own)), withRole);
        assert.deepEqual(withoutLine(withRole, roleLine(own)), lines);
        assert.throws(() => withLine(more, bindingLine(added)), RangeError);
        assert.throws(() => withoutLine(lines, bindingLine(added)), RangeError);
      }),
    );
  });

  it('takes no role out of a policy that a binding of it gives', () => {
    const own = { roleId: 'own', permissions: ['keys.get'], description: '', creator: ANNA };
    const given = {
      bindingId: 'b',
      member: { kind: 'group', name: 'corp/a' },
      role: 'tenants/acme/roles/own',
      keyPattern: '',
      allTenants: false,
      expiresAt: null,
      conditions: [],
      overridesSeparation: false,
      description: '',
      createdAt: new Date(),
      creator: ANNA,
    } as const;
    const created = { ...own, createdAt: new Date() };
    const lines = policyLines({ bindings: [given], roles: [created] });
    assert.throws(() => withoutLine(lines, roleLine(created)), /a binding gives the role own/);
  });
});
