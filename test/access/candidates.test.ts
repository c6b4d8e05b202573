/**
 * Decisions look at few of a caller's bindings: that leaving the others out never decides anything.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { PERMISSIONS, type Permission, PREDEFINED_ROLES } from '../../src/access/permissions.ts';
import { LATER, obstaclesOf, Policy, type Subject } from '../../src/access/policy.ts';
import type { RoleBinding } from '../../src/store/access/policies.ts';

const NOW = Date.UTC(2026, 0, 1);
const PRINCIPAL = 'jwt:corp/alice';
const GROUPS = ['corp/a', 'corp/b'];
const KEYS = ['a', 'ab', 'abc', 'b', '*'];

const subject = (): Subject => ({ name: PRINCIPAL, groups: GROUPS, claim: () => undefined });

const binding = fc.record({
  member: fc.oneof(
    fc.constantFrom(PRINCIPAL, 'corp/a').map((name) => ({ kind: 'principal' as const, name })),
    fc
      .constantFrom(...GROUPS, PRINCIPAL, 'corp/c')
      .map((name) => ({ kind: 'group' as const, name })),
  ),
  role: fc.constantFrom(
    ...Object.keys(PREDEFINED_ROLES).map((role) => `roles/${role}`),
    'roles/none',
  ),
  keyPattern: fc.constantFrom('', '*', 'a', 'a*', 'ab', 'ab*', 'abc', 'b'),
  allTenants: fc.boolean(),
  expiresAt: fc.constantFrom(null, new Date(NOW - 1), new Date(NOW + 1)),
  conditions: fc.constantFrom(
    [],
    [{ contextKey: 'k', requirement: { kind: 'equals' as const, value: 'v' } }],
  ),
});
const permission = fc.constantFrom(...(Object.keys(PERMISSIONS) as Permission[]));
const target = fc.record({
  key: fc.constantFrom(undefined, LATER, ...KEYS),
  context: fc.constantFrom(undefined, LATER, new Map([['k', 'v']]), new Map()),
});

test('a policy allows by the bindings that a decision looks at what it allows by all of them, whatever was asked before', () => {
  const questions = fc.array(fc.tuple(permission, target), { minLength: 1, maxLength: 10 });
  fc.assert(
    fc.property(
      fc.array(binding, { maxLength: 20 }),
      fc.constantFrom('acme', 'system'),
      questions,
      (drawn, tenant, asked) => {
        const bindings = drawn.map(
          (each, index): RoleBinding => ({
            ...each,
            bindingId: `b${index}`,
            overridesSeparation: false,
            description: '',
            createdAt: new Date(NOW),
            creator: 'test',
          }),
        );
        const policy = new Policy({ tenant, revision: 1n, bindings, roles: [] });
        const caller = subject();
        for (const [wanted, on] of asked) {
          const allowing = (grants: Iterable<Parameters<typeof obstaclesOf>[0]>) =>
            [...grants]
              .filter((grant) => obstaclesOf(grant, wanted, on, caller, NOW).length === 0)
              .map(({ binding: { bindingId } }) => bindingId)
              .sort();
          assert.deepEqual(
            allowing(policy.candidates(caller, wanted, on.key)),
            allowing(policy.grantsOf(caller)),
          );
        }
      },
    ),
  );
});

test('a caller with a binding for each of 10,000 keys is decided about by the one for the key', () => {
  const bindings = Array.from(
    { length: 10_000 },
    (_, index): RoleBinding => ({
      bindingId: `b${index}`,
      member: { kind: 'principal', name: PRINCIPAL },
      role: 'roles/encrypter',
      keyPattern: `key-${index}`,
      allTenants: false,
      expiresAt: null,
      conditions: [],
      overridesSeparation: false,
      description: '',
      createdAt: new Date(NOW),
      creator: 'test',
    }),
  );
  const policy = new Policy({ tenant: 'acme', revision: 1n, bindings, roles: [] });
  const found = policy.candidates(subject(), 'data.encrypt', 'key-4711');
  assert.deepEqual(
    found.map((grant) => grant.binding.bindingId),
    ['b4711'],
  );
  assert.equal(policy.candidates(subject(), 'data.decrypt', 'key-4711').length, 0);
  assert.equal(policy.candidates(subject(), 'data.encrypt', undefined).length, 0);
});
