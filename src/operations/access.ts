/**
 * AccessService, a row for each method.
 */
import { randomUUID } from 'node:crypto';
import { z } from 'zod';
import type { Rights } from '../access/access.ts';
import type { Permission } from '../access/permissions.ts';
import type { Target } from '../access/policy.ts';
import { ANY_CALLER, ofParent, type RowsOf, row, type Services } from '../calls/operation.ts';
import { KeywardError } from '../errors.ts';
import * as accessField from '../faces/contract/access-fields.ts';
import {
  callerMessage,
  consideredMessage,
  predefinedRoleMessages,
  roleBindingMessage,
  roleMessage,
} from '../faces/contract/access-messages.ts';
import * as field from '../faces/contract/fields.ts';
import type { AccessServiceHandlers } from '../faces/contract/generated/keyward/v1/AccessService.ts';
import { BY_NAME, type Paging, readPage } from '../keyring/pages.ts';
import {
  formatKeyName,
  formatRoleBindingName,
  formatRoleName,
  formatTenantName,
  type TenantName,
} from '../names.ts';
import type { RoleBinding } from '../store/access/policies.ts';
import type { Condition } from '../store/core/conditions.ts';

/** Ends of names that nobody chose: `b` and 32 hexadecimal digits. */
const newBindingId = () => `b${randomUUID().replaceAll('-', '')}`;

const tenantOf = ({ access }: Services, { tenant }: TenantName) => access.tenantOf(tenant);

/**
 * By name; as an answer, a binding takes less than its text does as JSON, and what else there is of
 * it.
 */
const BINDINGS: Paging<RoleBinding & { readonly name: string }> = {
  ...BY_NAME,
  bytesOf: (binding) => Buffer.byteLength(JSON.stringify(binding)) + 512,
};

/** Which rows need no tenant. */
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

/** Those of the permissions that the caller has; none of a tenant that he may not know of. */
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

const resourceName = (name: { readonly tenant: string; readonly key?: string }) =>
  name.key === undefined
    ? formatTenantName(name)
    : formatKeyName({ tenant: name.tenant, key: name.key });

export const accessService = {
  CreateRoleBinding: row({
    permission: 'roleBindings.create',
    target: ofParent,
    request: z.object({
      parent: field.tenantName,
      roleBindingId: z.union([z.literal(''), field.newId]),
      roleBinding: accessField.newRoleBinding,
      requestId: field.requestId,
    }),
    resource: ({ parent, roleBindingId }) =>
      roleBindingId === ''
        ? formatTenantName(parent)
        : formatRoleBindingName(parent, roleBindingId),
    handle: async (services, call, { parent, roleBindingId, roleBinding }) => {
      const tenant = await tenantOf(services, parent);
      const binding = { bindingId: roleBindingId || newBindingId(), ...roleBinding };
      const requireBeyond = () =>
        call.rights.require('roleBindings.createForAllTenants', {}, formatTenantName(parent));
      const { accessAdministration } = services;
      const created = await accessAdministration.createBinding(
        call,
        tenant,
        binding,
        requireBeyond,
      );
      return roleBindingMessage(parent, created);
    },
  }),
  GetRoleBinding: row({
    permission: 'roleBindings.get',
    target: ({ name }) => ({ tenant: name.tenant }),
    request: z.object({ name: field.roleBindingName }),
    resource: ({ name }) => formatRoleBindingName(name, name.roleBinding),
    handle: async (services, _, { name }) => {
      const { bindings } = await services.accessAdministration.policyOf(
        await tenantOf(services, name),
      );
      const binding = bindings.find(({ bindingId }) => bindingId === name.roleBinding);
      if (binding === undefined) throw new KeywardError('RESOURCE_NOT_FOUND');
      return roleBindingMessage(name, binding);
    },
  }),
  ListRoleBindings: row({
    permission: 'roleBindings.list',
    target: ofParent,
    request: z.object({ parent: field.tenantName, ...field.page(['principal', 'group', 'role']) }),
    resource: ({ parent }) => formatTenantName(parent),
    handle: async (services, _, { parent, filter: conditions, ...request }) => {
      const { bindings } = await services.accessAdministration.policyOf(
        await tenantOf(services, parent),
      );
      const listed = bindings
        .filter((binding) => isListed(binding, conditions))
        .map((binding) => ({ ...binding, name: binding.bindingId }));
      const { items, nextPageToken } = await readPage(
        `roleBindings ${parent.tenant}`,
        { ...request, conditions },
        BINDINGS,
        async ({ after = '', limit }) => listed.filter(({ name }) => name > after).slice(0, limit),
      );
      return { roleBindings: items.map((item) => roleBindingMessage(parent, item)), nextPageToken };
    },
  }),
  DeleteRoleBinding: row({
    permission: 'roleBindings.delete',
    target: ({ name }) => ({ tenant: name.tenant }),
    request: z.object({ name: field.roleBindingName, requestId: field.requestId }),
    resource: ({ name }) => formatRoleBindingName(name, name.roleBinding),
    handle: async (services, call, { name }) => {
      const tenant = await tenantOf(services, name);
      await services.accessAdministration.deleteBinding(call, tenant, name.roleBinding);
      return {};
    },
  }),
  CreateRole: row({
    permission: 'roles.create',
    target: ofParent,
    request: z.object({
      parent: field.tenantName,
      roleId: field.newId,
      role: accessField.newRole,
      requestId: field.requestId,
    }),
    resource: ({ parent, roleId }) => formatRoleName(parent, roleId),
    handle: async (services, call, { parent, roleId, role }) => {
      const tenant = await tenantOf(services, parent);
      return roleMessage(
        parent,
        await services.accessAdministration.createRole(call, tenant, { roleId, ...role }),
      );
    },
  }),
  GetRole: row({
    permission: 'roles.get',
    target: ({ name }) => ({ tenant: name.tenant }),
    request: z.object({ name: field.roleName }),
    resource: ({ name }) => formatRoleName(name, name.role),
    handle: async (services, _, { name }) => {
      const { roles } = await services.accessAdministration.policyOf(
        await tenantOf(services, name),
      );
      const role = roles.find(({ roleId }) => roleId === name.role);
      if (role === undefined) throw new KeywardError('RESOURCE_NOT_FOUND');
      return roleMessage(name, role);
    },
  }),
  ListRoles: row({
    permission: 'roles.list',
    target: ofParent,
    request: z.object({ parent: field.tenantName }),
    resource: ({ parent }) => formatTenantName(parent),
    handle: async (services, _, { parent }) => {
      const { roles } = await services.accessAdministration.policyOf(
        await tenantOf(services, parent),
      );
      return {
        roles: [...predefinedRoleMessages(), ...roles.map((role) => roleMessage(parent, role))],
      };
    },
  }),
  DeleteRole: row({
    permission: 'roles.delete',
    target: ({ name }) => ({ tenant: name.tenant }),
    request: z.object({ name: field.roleName, requestId: field.requestId }),
    resource: ({ name }) => formatRoleName(name, name.role),
    handle: async (services, call, { name }) => {
      const tenant = await tenantOf(services, name);
      await services.accessAdministration.deleteRole(call, tenant, name.role);
      return {};
    },
  }),
  TestPermissions: row({
    permission: ANY_CALLER,
    target: NO_TARGET,
    request: z.object({
      resource: accessField.resource,
      permissions: accessField.permissions,
      encryptionContext: field.encryptionContext,
    }),
    resource: ({ resource }) => resourceName(resource),
    handle: async ({ access }, call, { resource, permissions, encryptionContext: context }) => {
      const rights = access.rightsOf(call.rights.caller, resource.tenant);
      return { permissions: await held(rights, permissions, { key: resource.key, context }) };
    },
  }),
  ExplainAccess: row({
    permission: 'access.explain',
    target: ({ resource }) => ({ tenant: resource.tenant }),
    request: z.object({
      resource: accessField.resource,
      permission: accessField.permission,
      principal: accessField.principal,
      groups: z.array(accessField.group).max(200, 'must be at most 200'),
      claims: accessField.claims,
      encryptionContext: field.encryptionContext,
    }),
    resource: ({ resource }) => resourceName(resource),
    handle: async (
      services,
      _,
      { resource, permission, principal: name, groups, claims, ...request },
    ) => {
      const subject = {
        name,
        groups,
        claim: (path: readonly string[]) => claims.get(JSON.stringify(path)) || undefined,
      };
      const target = { key: resource.key, context: request.encryptionContext };
      const tenant = await tenantOf(services, resource);
      const { accessAdministration } = services;
      const considered = await accessAdministration.explain(tenant, subject, permission, target);
      const allowing = considered.find(({ obstacles }) => obstacles.length === 0);
      return {
        allowed: allowing !== undefined,
        roleBinding: allowing?.name ?? '',
        considered: considered.map(consideredMessage),
      };
    },
  }),
  GetCaller: row({
    permission: ANY_CALLER,
    target: NO_TARGET,
    request: z.object({}),
    resource: () => 'caller',
    handle: async ({ access }, { rights: { caller } }) =>
      callerMessage(caller, access.isFirstAdministrator(caller)),
  }),
} satisfies RowsOf<AccessServiceHandlers>;
