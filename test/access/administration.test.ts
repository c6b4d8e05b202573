/**
 * How much a policy may be: as much as every replica can hold and look through, of every tenant.
 *
 * With a store and agents that do nothing, since it takes a policy of megabytes; changes on the
 * real ones are in `test/access/role-bindings.test.ts`.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  AccessAdministration,
  type AdministrationParts,
  type NewRoleBinding,
} from '../../src/access/administration.ts';
import { Policy } from '../../src/access/policy.ts';
import { newId, type SealKeyId, type TenantId } from '../../src/ids.ts';
import type { CustomRole, RoleBinding } from '../../src/store/access/policies.ts';
import type { VerifiedTenant } from '../../src/store/tenants/tenants.ts';
import { callOf } from '../store/database.ts';

const TENANT = { tenantId: newId<TenantId>(), name: 'acme' } as VerifiedTenant;
const CREATED = { createdAt: new Date(0), creator: '' };

function binding(bindingId: string, name: string, description = ''): NewRoleBinding {
  return {
    bindingId,
    member: { kind: 'principal', name },
    role: 'roles/keyViewer',
    keyPattern: '',
    allTenants: false,
    expiresAt: null,
    conditions: [],
    overridesSeparation: false,
    description,
  };
}

/** The administration of a tenant that has these already. */
function administrationOf(bindings: readonly RoleBinding[], roles: readonly CustomRole[] = []) {
  const policy = new Policy({ tenant: 'acme', revision: 1n, bindings, roles });
  const nothing = new Policy({ tenant: 'system', revision: 1n, bindings: [], roles: [] });
  const tx = { query: async () => [{}], changed() {} };
  const parts = {
    store: { mutate: (_: unknown, __: unknown, work: (given: object) => unknown) => work(tx) },
    agents: { call: async () => ({ seal: Buffer.alloc(32) }) },
    policies: {
      verified: async () => ({ value: policy, record: { bindings, roles, now: new Date(0) } }),
      of: async () => nothing,
      forget() {},
    },
    tenantOf: async () => TENANT,
    currentSealKey: () => newId<SealKeyId>(),
  };
  return new AccessAdministration(parts as unknown as AdministrationParts);
}

const nobodyAsks = () => assert.fail('this reaches beyond the tenant');
const add = (
  bindings: readonly RoleBinding[],
  next: NewRoleBinding,
  roles?: readonly CustomRole[],
) => administrationOf(bindings, roles).createBinding(callOf(), TENANT, next, nobodyAsks);
const many = (count: number, nameOf: (index: number) => string, description = '') =>
  Array.from({ length: count }, (_, index) => ({
    ...binding(`b${index}`, nameOf(index), description),
    ...CREATED,
  }));
const isFull = { reason: 'POLICY_FULL' };

test('a tenant has 20,000 bindings at most', async () => {
  const nameOf = (index: number) => `caller ${index}`;
  await add(many(19_999, nameOf), binding('last', 'x'));
  await assert.rejects(add(many(20_000, nameOf), binding('more', 'x')), isFull);
});

test('a member has 500 of them at most, and others theirs', async () => {
  await add(
    many(499, () => 'x'),
    binding('last', 'x'),
  );
  const full = many(500, () => 'x');
  await assert.rejects(add(full, binding('more', 'x')), isFull);
  await add(full, binding('more', 'y'));
  await add(full, { ...binding('more', ''), member: { kind: 'group', name: 'x' } });
});

test('all of them, and the roles, have 8 MiB at most', async () => {
  const nameOf = (index: number) => `caller ${index}`;
  const long = 'ü'.repeat(4_000);
  await add(many(1_000, nameOf, long), binding('last', 'x', long));
  await assert.rejects(add(many(1_050, nameOf, long), binding('more', 'x')), isFull);
  const roles = many(1_050, nameOf, long).map(({ bindingId, description }) => ({
    roleId: bindingId,
    permissions: ['keys.get'],
    description,
    ...CREATED,
  }));
  await assert.rejects(add([], binding('more', 'x'), roles), isFull);
});

test('a tenant has 200 roles of its own at most', async () => {
  const roles = (count: number) =>
    Array.from({ length: count }, (_, index) => ({
      roleId: `r${index}`,
      permissions: ['keys.get'],
      description: '',
      ...CREATED,
    }));
  const next = { roleId: 'next', permissions: ['keys.get'], description: '' };
  await administrationOf([], roles(199)).createRole(callOf(), TENANT, next, () => {});
  await assert.rejects(
    administrationOf([], roles(200)).createRole(callOf(), TENANT, next, () => {}),
    isFull,
  );
});
