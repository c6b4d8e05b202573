/**
 * What audit entries say of role bindings and roles: all that decides who may do what.
 * docs/audit.md describes the members.
 */
import type { CustomRole, RoleBinding } from '../store/access/policies.ts';

/** Returns what an entry says of a role binding. */
export function bindingContent(binding: RoleBinding): object {
  const { member, role, keyPattern, allTenants, expiresAt, conditions } = binding;
  const { overridesSeparation, description, createdAt, creator } = binding;
  return {
    member,
    role,
    keyPattern,
    allTenants,
    expireTime: expiresAt,
    conditions,
    overridesSeparation,
    description,
    createTime: createdAt,
    creator,
  };
}

/** Returns what an entry says of a tenant's own role. */
export function roleContent({ permissions, description, createdAt, creator }: CustomRole): object {
  return { permissions, description, createTime: createdAt, creator };
}
