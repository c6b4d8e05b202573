/**
 * Role bindings, roles and callers as the contract's messages. Knows both and nothing else.
 */
import type { Considered, Explained, Obstacle } from '../../access/explanation.ts';
import type { Caller } from '../../access/identity.ts';
import { PREDEFINED_ROLES } from '../../access/permissions.ts';
import {
  formatRoleBindingName,
  formatRoleName,
  formatTenantName,
  type TenantName,
} from '../../names.ts';
import type { ContextCondition, CustomRole, RoleBinding } from '../../store/access/policies.ts';
import type { AccessObstacle } from './generated/keyward/v1/AccessObstacle.ts';
import type { Caller as CallerMessage } from './generated/keyward/v1/Caller.ts';
import type { ConsideredBinding } from './generated/keyward/v1/ConsideredBinding.ts';
import type { ContextCondition as ContextConditionMessage } from './generated/keyward/v1/ContextCondition.ts';
import type { ExplainAccessResponse } from './generated/keyward/v1/ExplainAccessResponse.ts';
import type { Role } from './generated/keyward/v1/Role.ts';
import type { RoleBinding as RoleBindingMessage } from './generated/keyward/v1/RoleBinding.ts';
import { optionalTime, timestamp } from './times.ts';

export function roleBindingMessage(parent: TenantName, binding: RoleBinding): RoleBindingMessage {
  const { kind, name } = binding.member;
  return {
    name: formatRoleBindingName(parent, binding.bindingId),
    ...(kind === 'principal' ? { principal: name } : { group: name }),
    role: binding.role,
    keyPattern: binding.keyPattern,
    allTenants: binding.allTenants,
    expireTime: optionalTime(binding.expiresAt),
    conditions: binding.conditions.map(conditionMessage),
    overrideSeparationOfDuties: binding.overridesSeparation,
    description: binding.description,
    createTime: timestamp(binding.createdAt),
    creator: binding.creator,
  };
}

function conditionMessage({ contextKey, requirement }: ContextCondition): ContextConditionMessage {
  switch (requirement.kind) {
    case 'equals':
      return { contextKey, equals: requirement.value };
    case 'oneOf':
      return { contextKey, oneOf: { values: [...requirement.values] } };
    case 'claim':
      return { contextKey, claim: { path: [...requirement.path] } };
  }
}

export function roleMessage(parent: TenantName, role: CustomRole): Role {
  return {
    name: formatRoleName(parent, role.roleId),
    permissions: [...role.permissions],
    description: role.description,
    createTime: timestamp(role.createdAt),
    creator: role.creator,
  };
}

/** All of them, by name. */
export function predefinedRoleMessages(): Role[] {
  return Object.entries(PREDEFINED_ROLES)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, { description, permissions }]) => ({
      name: `roles/${name}`,
      permissions: [...permissions],
      description,
    }));
}

const OBSTACLES: Readonly<Record<Obstacle, AccessObstacle>> = {
  permission: 'ACCESS_OBSTACLE_PERMISSION',
  key: 'ACCESS_OBSTACLE_KEY',
  expired: 'ACCESS_OBSTACLE_EXPIRED',
  context: 'ACCESS_OBSTACLE_CONTEXT',
  tenant: 'ACCESS_OBSTACLE_TENANT',
  issuer: 'ACCESS_OBSTACLE_ISSUER',
};

export function explanationMessage({ considered, tokenTenant }: Explained): ExplainAccessResponse {
  const allowing = considered.find(({ obstacles }) => obstacles.length === 0);
  return {
    allowed: allowing !== undefined,
    roleBinding: allowing?.name ?? '',
    considered: considered.map(consideredMessage),
    tokenTenant: tokenTenant === undefined ? '' : formatTenantName({ tenant: tokenTenant }),
  };
}

function consideredMessage({ name, role, obstacles }: Considered): ConsideredBinding {
  return { roleBinding: name, role, obstacles: obstacles.map((obstacle) => OBSTACLES[obstacle]) };
}

export function callerMessage(caller: Caller, firstAdministrator: boolean): CallerMessage {
  const { name, groups, tenants, expiresAt, token, authentication } = caller;
  return {
    name,
    issuer: token?.issuer ?? '',
    groups: [...groups],
    limitedToTenants: tenants !== undefined,
    tenants: (tenants ?? []).map((tenant) => formatTenantName({ tenant })),
    expireTime: optionalTime(expiresAt ?? null),
    firstAdministrator,
    acr: authentication?.acr ?? '',
    authenticationMethods: [...(authentication?.methods ?? [])],
    authenticationTime: optionalTime(authentication?.at ?? null),
  };
}
