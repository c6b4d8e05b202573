/**
 * Role bindings, roles, and what callers may do: an operation for each method of AccessService.
 */
import type { Rights } from '../access/access.ts';
import type { NewRole, NewRoleBinding } from '../access/administration.ts';
import type { AskedCaller } from '../access/explanation.ts';
import type { Permission } from '../access/permissions.ts';
import type { Target } from '../access/policy.ts';
import type { Call } from '../call.ts';
import { ANY_CALLER, ofName, ofParent, operation, type Services } from '../calls/operation.ts';
import { KeywardError } from '../errors.ts';
import { bindingIdOf } from '../hsm/policy-record.ts';
import { newId } from '../ids.ts';
import type { EncryptionContext } from '../keyring/keys/encryption-context.ts';
import { BY_NAME, type Paging, readPage } from '../keyring/pages.ts';
import {
  formatKeyName,
  formatRoleBindingName,
  formatRoleName,
  formatTenantName,
  type RoleBindingName,
  type RoleName,
  type TenantName,
} from '../names.ts';
import type { RoleBinding } from '../store/access/policies.ts';
import type { Condition } from '../store/core/conditions.ts';
import type { In, ListIn, Named, Repeatable } from './requests.ts';

/** A role binding to be made. */
export interface NewRoleBindingRequest extends In<TenantName>, Repeatable {
  /** The last part of its name; empty for one that is generated. */
  readonly roleBindingId: string;
  readonly roleBinding: Omit<NewRoleBinding, 'bindingId'>;
}

/** A role to be made. */
export interface NewRoleRequest extends In<TenantName>, Repeatable {
  /** The last part of its name. */
  readonly roleId: string;
  readonly role: Omit<NewRole, 'roleId'>;
}

/** A tenant or a key. */
export interface AccessResource extends TenantName {
  readonly key?: string;
}

/** Which of some permissions the caller has. */
export interface PermissionsTest {
  readonly resource: AccessResource;
  readonly permissions: readonly Permission[];
  readonly context: EncryptionContext;
}

/** Why somebody has a permission, or has not. */
export interface AccessQuestion {
  readonly resource: AccessResource;
  readonly permission: Permission;
  readonly caller: AskedCaller;
  readonly context: EncryptionContext;
}

/**
 * Ends of names that were not chosen: `b` and 32 hexadecimal digits. Of a call that others have
 * approved they are the operation's, so that agents take one approval for one binding.
 */
const newBindingId = ({ warrant }: Pick<Call, 'warrant'>) =>
  bindingIdOf(warrant?.operationId ?? newId());

const tenantOf = ({ access }: Services, { tenant }: TenantName) => access.tenantOf(tenant);

const policyOf = async (services: Services, name: TenantName) =>
  services.accessAdministration.policyOf(await tenantOf(services, name));

/**
 * By name; as an answer, a binding takes less than its text does as JSON, and what else there is of
 * it.
 */
const BINDINGS: Paging<RoleBinding & { readonly name: string }> = {
  ...BY_NAME,
  bytesOf: (binding) => Buffer.byteLength(JSON.stringify(binding)) + 512,
};

/** What giving, and taking away, needs where it reaches beyond the tenant. */
const requireBeyond =
  ({ rights }: { readonly rights: Rights }, tenant: TenantName) =>
  () =>
    rights.require('roleBindings.createForAllTenants', {}, formatTenantName(tenant));

/** Rows that need no tenant. */
const NO_TARGET = () => ({ tenant: '' });

function isListed({ member, role }: RoleBinding, conditions: readonly Condition[]): boolean {
  const fields: Readonly<Record<string, string>> = {
    principal: member.kind === 'principal' ? member.name : '',
    group: member.kind === 'group' ? member.name : '',
    role,
  };
  return conditions.every(
    (each) => (fields[each.field] === each.value) === (each.operator === '='),
  );
}

/** Returns those of the permissions that the caller has; none of a tenant not to be known of. */
async function held(
  rights: Promise<Rights>,
  permissions: readonly Permission[],
  target: Target,
): Promise<Permission[]> {
  try {
    const known = await rights;
    return permissions.filter((permission) => known.bindingFor(permission, target) !== undefined);
  } catch (error) {
    if (error instanceof KeywardError && error.reason === 'RESOURCE_NOT_FOUND') return [];
    throw error;
  }
}

const resourceName = ({ tenant, key }: AccessResource) =>
  key === undefined ? formatTenantName({ tenant }) : formatKeyName({ tenant, key });

export const accessOperations = {
  CreateRoleBinding: operation({
    isSensitive: true,
    agentNeed: () => 'policies',
    permission: 'roleBindings.create',
    target: ofParent,
    resource: ({ parent, roleBindingId }: NewRoleBindingRequest) =>
      roleBindingId === ''
        ? formatTenantName(parent)
        : formatRoleBindingName(parent, roleBindingId),
    handle: async (services, call, { parent, roleBindingId, roleBinding }) => {
      const tenant = await tenantOf(services, parent);
      const binding = { bindingId: roleBindingId || newBindingId(call), ...roleBinding };
      const beyond = requireBeyond(call, parent);
      return services.accessAdministration.createBinding(call, tenant, binding, beyond);
    },
  }),
  GetRoleBinding: operation({
    permission: 'roleBindings.get',
    target: ofName,
    resource: ({ name }: Named<RoleBindingName>) => formatRoleBindingName(name, name.roleBinding),
    handle: async (services, _, { name }) => {
      const { bindings } = await policyOf(services, name);
      const binding = bindings.find(({ bindingId }) => bindingId === name.roleBinding);
      if (binding === undefined) throw new KeywardError('RESOURCE_NOT_FOUND');
      return binding;
    },
  }),
  ListRoleBindings: operation({
    permission: 'roleBindings.list',
    target: ofParent,
    resource: ({ parent }: ListIn<TenantName>) => formatTenantName(parent),
    handle: async (services, _, { parent, ...page }) => {
      const { bindings } = await policyOf(services, parent);
      const listed = bindings
        .filter((binding) => isListed(binding, page.conditions))
        .map((binding) => ({ ...binding, name: binding.bindingId }));
      return readPage(
        `roleBindings ${parent.tenant}`,
        page,
        BINDINGS,
        async ({ after = '', limit }) => listed.filter(({ name }) => name > after).slice(0, limit),
      );
    },
  }),
  DeleteRoleBinding: operation({
    isSensitive: true,
    agentNeed: () => 'removals',
    permission: 'roleBindings.delete',
    target: ofName,
    resource: ({ name }: Named<RoleBindingName> & Repeatable) =>
      formatRoleBindingName(name, name.roleBinding),
    handle: async (services, call, { name }) => {
      const tenant = await tenantOf(services, name);
      const beyond = requireBeyond(call, name);
      await services.accessAdministration.deleteBinding(call, tenant, name.roleBinding, beyond);
    },
  }),
  CreateRole: operation({
    isSensitive: true,
    agentNeed: () => 'policies',
    permission: 'roles.create',
    target: ofParent,
    resource: ({ parent, roleId }: NewRoleRequest) => formatRoleName(parent, roleId),
    handle: async (services, call, { parent, roleId, role }) => {
      const tenant = await tenantOf(services, parent);
      const asked = { roleId, ...role };
      const beyond = requireBeyond(call, parent);
      return services.accessAdministration.createRole(call, tenant, asked, beyond);
    },
  }),
  GetRole: operation({
    permission: 'roles.get',
    target: ofName,
    resource: ({ name }: Named<RoleName>) => formatRoleName(name, name.role),
    handle: async (services, _, { name }) => {
      const { roles } = await policyOf(services, name);
      const role = roles.find(({ roleId }) => roleId === name.role);
      if (role === undefined) throw new KeywardError('RESOURCE_NOT_FOUND');
      return role;
    },
  }),
  ListRoles: operation({
    permission: 'roles.list',
    target: ofParent,
    resource: ({ parent }: In<TenantName>) => formatTenantName(parent),
    handle: async (services, _, { parent }) => (await policyOf(services, parent)).roles,
  }),
  DeleteRole: operation({
    isSensitive: true,
    agentNeed: () => 'removals',
    permission: 'roles.delete',
    target: ofName,
    resource: ({ name }: Named<RoleName> & Repeatable) => formatRoleName(name, name.role),
    handle: async (services, call, { name }) => {
      const tenant = await tenantOf(services, name);
      const beyond = requireBeyond(call, name);
      await services.accessAdministration.deleteRole(call, tenant, name.role, beyond);
    },
  }),
  TestPermissions: operation({
    permission: ANY_CALLER,
    target: NO_TARGET,
    resource: ({ resource }: PermissionsTest) => resourceName(resource),
    contexts: ({ context }) => ({ context, isOnlyNamed: true }),
    handle: ({ access }, call, { resource, permissions, context }) => {
      const rights = access.rightsOf(call.rights.caller, resource.tenant);
      return held(rights, permissions, { key: resource.key, context });
    },
  }),
  ExplainAccess: operation({
    permission: 'access.explain',
    target: ({ resource }) => ({ tenant: resource.tenant }),
    resource: ({ resource }: AccessQuestion) => resourceName(resource),
    contexts: ({ context }) => ({ context, isOnlyNamed: true }),
    handle: async (services, _, { resource, permission, caller, context }) => {
      const target = { key: resource.key, context };
      const tenant = await tenantOf(services, resource);
      return services.explanation.of(tenant, caller, permission, target);
    },
  }),
  GetCaller: operation({
    permission: ANY_CALLER,
    target: NO_TARGET,
    resource: (_: object) => 'caller',
    handle: async ({ access }, { rights: { caller } }) => ({
      caller,
      isFirstAdministrator: access.isFirstAdministrator(caller),
    }),
  }),
};
