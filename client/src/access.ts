/**
 * Role bindings, roles and answers about access off the wire, in friendly types; and what creates
 * or asks for them, to it.
 *
 * Its invariant: where the contract has one field out of several, exactly one is sent, since
 * protobufjs would keep the last of two without a word; what is newer than this client is absent or
 * `UNSPECIFIED`, never an error. Knows nothing of methods.
 */
import { flag, items, requestId, strings, text, timestamp } from './fields.ts';
import type { AccessObstacle__Output } from './generated/keyward/v1/AccessObstacle.ts';
import type { Caller__Output } from './generated/keyward/v1/Caller.ts';
import type { ContextCondition__Output } from './generated/keyward/v1/ContextCondition.ts';
import type { ExplainAccessResponse__Output } from './generated/keyward/v1/ExplainAccessResponse.ts';
import type { Role__Output } from './generated/keyward/v1/Role.ts';
import type { RoleBinding__Output } from './generated/keyward/v1/RoleBinding.ts';
import type * as m from './messages.ts';
import { date, dateIfAny } from './times.ts';

const OBSTACLES = {
  ACCESS_OBSTACLE_UNSPECIFIED: 'UNSPECIFIED',
  ACCESS_OBSTACLE_PERMISSION: 'PERMISSION',
  ACCESS_OBSTACLE_KEY: 'KEY',
  ACCESS_OBSTACLE_EXPIRED: 'EXPIRED',
  ACCESS_OBSTACLE_CONTEXT: 'CONTEXT',
} as const satisfies Record<AccessObstacle__Output, m.AccessObstacle>;

export function createRoleBindingRequest(r: m.CreateRoleBindingRequest) {
  const { role, keyPattern, allTenants, expireTime, conditions, ...given } = r.roleBinding;
  return {
    parent: text('parent', r.parent),
    roleBindingId: text('roleBindingId', r.roleBindingId ?? ''),
    roleBinding: {
      ...member(given),
      role: text('roleBinding.role', role),
      keyPattern: text('roleBinding.keyPattern', keyPattern ?? ''),
      allTenants: flag('roleBinding.allTenants', allTenants ?? false),
      expireTime: expireTime === undefined ? null : timestamp('roleBinding.expireTime', expireTime),
      conditions: items('roleBinding.conditions', conditions ?? [], condition),
      overrideSeparationOfDuties: flag(
        'roleBinding.overrideSeparationOfDuties',
        given.overrideSeparationOfDuties ?? false,
      ),
      description: text('roleBinding.description', given.description ?? ''),
    },
    ...requestId(r.requestId),
  };
}

function member({ principal, group }: m.NewMember) {
  if ((principal === undefined) === (group === undefined))
    throw new TypeError('roleBinding must have principal or group, and not both');
  return group === undefined
    ? { principal: text('roleBinding.principal', principal) }
    : { group: text('roleBinding.group', group) };
}

function condition({ contextKey, equals, oneOf, claim }: m.NewContextCondition) {
  const key = { contextKey: text('contextKey', contextKey) };
  if ([equals, oneOf, claim].filter((given) => given !== undefined).length !== 1)
    throw new TypeError('contextKey must go with equals, oneOf or claim, and one of them only');
  if (oneOf !== undefined) return { ...key, oneOf: { values: texts('oneOf', oneOf) } };
  if (claim !== undefined) return { ...key, claim: { path: texts('claim', claim) } };
  return { ...key, equals: text('equals', equals) };
}

function texts(field: string, given: readonly string[]): string[] {
  if (!Array.isArray(given)) throw new TypeError(`${field} must be an array of strings`);
  return given.map((each, index) => text(`${field}[${index}]`, each));
}

export function createRoleRequest(r: m.CreateRoleRequest) {
  return {
    parent: text('parent', r.parent),
    roleId: text('roleId', r.roleId),
    role: {
      permissions: texts('role.permissions', r.role.permissions),
      description: text('role.description', r.role.description ?? ''),
    },
    ...requestId(r.requestId),
  };
}

export function testPermissionsRequest(r: m.TestPermissionsRequest) {
  return {
    resource: text('resource', r.resource),
    permissions: texts('permissions', r.permissions),
    encryptionContext: strings('encryptionContext', r.encryptionContext),
  };
}

export function explainRequest(r: m.ExplainAccessRequest) {
  return {
    resource: text('resource', r.resource),
    permission: text('permission', r.permission),
    principal: text('principal', r.principal),
    groups: texts('groups', r.groups ?? []),
    claims: items('claims', r.claims ?? [], ({ claim, value }: m.ClaimValue) => ({
      claim: { path: texts('claim', claim) },
      value: text('value', value),
    })),
    encryptionContext: strings('encryptionContext', r.encryptionContext),
  };
}

export function roleBinding(wire: RoleBinding__Output): m.RoleBinding {
  return {
    name: wire.name,
    principal: wire.principal,
    group: wire.group,
    role: wire.role,
    keyPattern: wire.keyPattern,
    allTenants: wire.allTenants,
    expireTime: dateIfAny(wire.expireTime),
    conditions: wire.conditions.map(contextCondition),
    overrideSeparationOfDuties: wire.overrideSeparationOfDuties,
    description: wire.description,
    createTime: date(wire.createTime),
    creator: wire.creator,
  };
}

function contextCondition(wire: ContextCondition__Output): m.ContextCondition {
  const { contextKey, equals, oneOf, claim } = wire;
  return { contextKey, equals, oneOf: oneOf?.values, claim: claim?.path };
}

export function role(wire: Role__Output): m.Role {
  const { name, permissions, description, creator } = wire;
  return { name, permissions, description, createTime: dateIfAny(wire.createTime), creator };
}

// A value that the proto files here don't have yet arrives as its number, whatever the types say:
// hence `??` below.

export function explanation(wire: ExplainAccessResponse__Output): m.ExplainAccessResponse {
  return {
    allowed: wire.allowed,
    roleBinding: wire.roleBinding,
    considered: wire.considered.map(({ obstacles, ...binding }) => ({
      ...binding,
      obstacles: obstacles.map((obstacle) => OBSTACLES[obstacle] ?? 'UNSPECIFIED'),
    })),
  };
}

export function caller(wire: Caller__Output): m.Caller {
  return { ...wire, expireTime: dateIfAny(wire.expireTime) };
}
