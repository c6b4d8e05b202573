/**
 * Decides what follows from a tenant's role bindings and roles.
 *
 * - Everything that no binding allows is denied.
 * - A binding in a tenant other than `system` allows nothing outside that tenant.
 * - An unknown fact of a call (its key, its context) never matches, except for a key that is found
 *   later: then the decision is made again.
 * - Database, tokens and methods are unknown here.
 */
import { formatRoleName, SYSTEM_TENANT } from '../names.ts';
import type {
  ContextCondition,
  CustomRole,
  Member,
  RoleBinding,
} from '../store/access/policies.ts';
import { isOfSystem, isPermission, type Permission, PREDEFINED_ROLES } from './permissions.ts';

/** Describes a caller as decisions need it. */
export interface Subject {
  readonly name: string;
  /** `{issuer}/{group}`. */
  readonly groups: readonly string[];
  /** The string that the caller's token has there, if it has one. */
  claim(path: readonly string[]): string | undefined;
}

/** What a call finds out only later, and asks about again then: taken to fit until it does. */
export const LATER: unique symbol = Symbol('later');

/** Describes what a call is about in a tenant. */
export interface Target {
  /** The last part of a key's name; absent for the tenant as a whole. */
  readonly key?: string | typeof LATER | undefined;
  /** The encryption context, where the call brings one. */
  readonly context?: ReadonlyMap<string, string> | typeof LATER | undefined;
}

/** Names why a binding does not allow a call. */
export type Obstacle = 'permission' | 'key' | 'expired' | 'context';

/** Holds a binding and the permissions of its role. */
export interface Grant {
  readonly binding: RoleBinding;
  readonly permissions: ReadonlySet<Permission>;
}

/** A subject's grants of one permission. */
interface Candidates {
  readonly all: Grant[];
  /** For more than one key. */
  readonly open: Grant[];
  readonly byKey: Map<string, Grant[]>;
}

/** Decides what callers may do in one tenant, by its role bindings and roles. */
export class Policy {
  /** The tenant, by the last part of its name. */
  readonly tenant: string;
  /** Counts the policy's changes. */
  readonly revision: bigint;
  readonly bindings: readonly RoleBinding[];
  readonly roles: readonly CustomRole[];
  readonly #grants: ReadonlyMap<string, readonly Grant[]>;
  /** What was found for subjects before: the same ones ask again and again. */
  readonly #found = new WeakMap<Subject, Map<Permission, Candidates>>();

  constructor(policy: Pick<Policy, 'tenant' | 'revision' | 'bindings' | 'roles'>) {
    this.tenant = policy.tenant;
    this.revision = policy.revision;
    this.bindings = policy.bindings;
    this.roles = policy.roles;
    const grants = new Map<string, Grant[]>();
    for (const binding of policy.bindings) {
      const grant = { binding, permissions: this.#permissionsOf(binding.role) };
      const member = memberKey(binding.member);
      const others = grants.get(member);
      if (others === undefined) grants.set(member, [grant]);
      else others.push(grant);
    }
    this.#grants = grants;
  }

  /** Yields the bindings of the caller, by name or by group. */
  *grantsOf({ name, groups }: Pick<Subject, 'name' | 'groups'>): Iterable<Grant> {
    yield* this.#grants.get(memberKey({ kind: 'principal', name })) ?? [];
    for (const group of groups)
      yield* this.#grants.get(memberKey({ kind: 'group', name: group })) ?? [];
  }

  /**
   * The subject's grants that may allow this: those that have the permission, without those for
   * another key alone. Found once for each subject, which is never changed: a decision among 9,000
   * bindings of the caller's own, a key each, took 1 ms without.
   */
  candidates(subject: Subject, permission: Permission, key: Target['key']): readonly Grant[] {
    let found = this.#found.get(subject);
    if (found === undefined) {
      found = new Map();
      this.#found.set(subject, found);
    }
    let candidates = found.get(permission);
    if (candidates === undefined) {
      candidates = this.#find(subject, permission);
      found.set(permission, candidates);
    }
    if (key === LATER) return candidates.all;
    const own = key === undefined ? undefined : candidates.byKey.get(key);
    return own === undefined ? candidates.open : [...own, ...candidates.open];
  }

  #find(subject: Subject, permission: Permission): Candidates {
    const candidates: Candidates = { all: [], open: [], byKey: new Map() };
    for (const grant of this.grantsOf(subject)) {
      if (!grant.permissions.has(permission)) continue;
      candidates.all.push(grant);
      const { keyPattern } = grant.binding;
      const isOpen = keyPattern === '' || keyPattern.endsWith('*');
      const others = isOpen ? candidates.open : candidates.byKey.get(keyPattern);
      if (others === undefined) candidates.byKey.set(keyPattern, [grant]);
      else others.push(grant);
    }
    return candidates;
  }

  /** Returns the permissions of a role of this tenant; undefined if it does not exist. */
  permissionsOfRole(role: string): ReadonlySet<Permission> | undefined {
    const predefined = predefinedRole(role);
    if (predefined !== undefined) return new Set(predefined.permissions);
    const own = this.roles.find(({ roleId }) => role === formatRoleName(this, roleId));
    return own && new Set(own.permissions.filter(isPermission));
  }

  /** A binding of the tenant itself can't reach beyond it. */
  #permissionsOf(role: string): ReadonlySet<Permission> {
    const all = this.permissionsOfRole(role) ?? new Set<Permission>();
    return this.tenant === SYSTEM_TENANT
      ? all
      : new Set([...all].filter((permission) => !isOfSystem(permission)));
  }
}

/** The predefined role of that name, `roles/{role}`, if it is one. */
function predefinedRole(
  name: string,
): { readonly description: string; readonly permissions: readonly Permission[] } | undefined {
  const role = name.startsWith('roles/') ? name.slice('roles/'.length) : '';
  return Object.hasOwn(PREDEFINED_ROLES, role)
    ? PREDEFINED_ROLES[role as keyof typeof PREDEFINED_ROLES]
    : undefined;
}

/** Returns why the grant does not allow this; empty if it does. `now`: milliseconds since 1970. */
export function obstaclesOf(
  { binding, permissions }: Grant,
  permission: Permission,
  { key, context }: Target,
  subject: Subject,
  now: number,
): Obstacle[] {
  const obstacles: Obstacle[] = [];
  if (!permissions.has(permission)) obstacles.push('permission');
  if (!fitsKey(binding.keyPattern, key)) obstacles.push('key');
  if (hasExpired(binding, now)) obstacles.push('expired');
  if (!binding.conditions.every((condition) => isMet(condition, context, subject)))
    obstacles.push('context');
  return obstacles;
}

/**
 * Whether nothing keeps the grant from allowing this: {@link obstaclesOf}, and no more of it than
 * it takes to know.
 */
export function allows(
  { binding, permissions }: Grant,
  permission: Permission,
  { key, context }: Target,
  subject: Subject,
  now: number,
): boolean {
  return (
    permissions.has(permission) &&
    fitsKey(binding.keyPattern, key) &&
    !hasExpired(binding, now) &&
    binding.conditions.every((condition) => isMet(condition, context, subject))
  );
}

/** Returns whether the binding has expired. */
export function hasExpired({ expiresAt }: Pick<RoleBinding, 'expiresAt'>, now: number): boolean {
  return expiresAt !== null && expiresAt.getTime() <= now;
}

/** Returns whether some key may match both patterns. */
export function patternsOverlap(a: string, b: string): boolean {
  const [prefixA, prefixB] = [a, b].map((pattern) => pattern.replace(/\*$/, ''));
  const isOpen = (pattern: string) => pattern === '' || pattern.endsWith('*');
  if (isOpen(a) && prefixB?.startsWith(prefixA ?? '')) return true;
  return (isOpen(b) && prefixA?.startsWith(prefixB ?? '')) || a === b;
}

function fitsKey(pattern: string, key: Target['key']): boolean {
  if (pattern === '' || key === LATER) return true;
  if (key === undefined) return false;
  return pattern.endsWith('*') ? key.startsWith(pattern.slice(0, -1)) : key === pattern;
}

function isMet(
  { contextKey, requirement }: ContextCondition,
  context: Target['context'],
  subject: Subject,
): boolean {
  if (context === LATER) return true;
  const value = context?.get(contextKey);
  if (value === undefined) return false;
  switch (requirement.kind) {
    case 'equals':
      return value === requirement.value;
    case 'oneOf':
      return requirement.values.includes(value);
    case 'claim':
      return value === subject.claim(requirement.path);
  }
}

function memberKey({ kind, name }: Member): string {
  return `${kind}:${name}`;
}
