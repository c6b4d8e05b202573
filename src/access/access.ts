/**
 * Decides what a caller may do, by the policies of the tenant and of the tenant `system`.
 *
 * - Everything that no binding allows is denied.
 * - A tenant in which the caller has no binding, or that the token excludes, looks like one that
 *   does not exist.
 * - The first administrator may create role bindings and nothing else.
 * - A suspended caller is allowed nothing, whatever bindings say; the first administrator keeps
 *   what the configuration gives, so that there is a way back.
 * - Callers of this file name the permission and its resource; methods are unknown here.
 */
import { KeywardError } from '../errors.ts';
import type { TenantId } from '../ids.ts';
import { formatRoleBindingName, SYSTEM_TENANT } from '../names.ts';
import type { RoleBinding } from '../store/access/policies.ts';
import type { Caller } from './identity.ts';
import type { Permission } from './permissions.ts';
import type { Policies } from './policies.ts';
import { allows, type Grant, hasExpired, type Policy, type Target } from './policy.ts';
import type { TenantIdentity } from './tenant-records.ts';

/** What the first administrator may do. */
const FIRST_ADMINISTRATORS: readonly Permission[] = [
  'roleBindings.create',
  'roleBindings.createForAllTenants',
];
/** In place of a binding's name. */
export const BY_CONFIGURATION = 'KEYWARD_FIRST_ADMINISTRATOR';

export interface AccessParts {
  readonly policies: Pick<Policies, 'of'>;
  /** The tenant of that name. Throws RESOURCE_NOT_FOUND. */
  readonly tenantOf: (name: string) => TenantIdentity | Promise<TenantIdentity>;
  /** A caller's name. */
  readonly firstAdministrator: string | undefined;
  /** Returns whether a caller is suspended in a tenant. Throws REPLICA_STALE. */
  readonly suspends: (caller: string, tenant: string) => boolean;
}

/** What decides about a caller besides bindings. */
export interface Standing {
  readonly isFirstAdministrator: boolean;
  readonly isSuspended: boolean;
}

/** What was not allowed. */
export interface Denial {
  readonly permission: Permission;
  readonly resource: string;
}

/** Decides what a caller may do, by the policies of the tenant and of `system`. */
export class Access {
  readonly #parts: AccessParts;

  constructor(parts: AccessParts) {
    this.#parts = parts;
  }

  /** The tenant of that name. Throws RESOURCE_NOT_FOUND. */
  tenantOf(name: string): TenantIdentity | Promise<TenantIdentity> {
    return this.#parts.tenantOf(name);
  }

  /**
   * The caller's rights in a tenant. Throws RESOURCE_NOT_FOUND for one that there isn't or that the
   * token isn't good for, POLICY_CORRUPT, REPLICA_STALE, and what loading a policy throws.
   */
  async rightsOf(caller: Caller, tenantName: string): Promise<Rights> {
    const { policies, tenantOf, suspends } = this.#parts;
    const isFirstAdministrator = this.isFirstAdministrator(caller);
    if (tenantName !== SYSTEM_TENANT && caller.tenants?.includes(tenantName) === false)
      throw new KeywardError('RESOURCE_NOT_FOUND');
    const tenant = await this.#knownTenant(tenantName);
    const own = await policies.of(tenant);
    if (tenantName === SYSTEM_TENANT) {
      const isGood = caller.tenants?.includes(SYSTEM_TENANT) !== false;
      const isSuspended = suspends(caller.name, tenantName);
      const standing = { isFirstAdministrator: isFirstAdministrator && isGood, isSuspended };
      return new Rights(caller, tenant, isGood ? [own] : [], standing);
    }
    // What the tenant's own policy allows doesn't depend on that of `system`, be it as it may.
    let system: Policy | Error;
    try {
      system = await policies.of(await tenantOf(SYSTEM_TENANT));
    } catch (error) {
      system = error as Error;
    }
    const standing = { isFirstAdministrator, isSuspended: suspends(caller.name, tenantName) };
    return new Rights(caller, tenant, [own, system], standing);
  }

  /**
   * The tenant of that name. Throws RESOURCE_NOT_FOUND; but what loading the policy of `system`
   * throws, since that is what is thrown for a tenant that there is and in which the caller has
   * nothing.
   */
  async #knownTenant(name: string): Promise<TenantIdentity> {
    const { policies, tenantOf } = this.#parts;
    try {
      return await tenantOf(name);
    } catch (error) {
      await policies.of(await tenantOf(SYSTEM_TENANT));
      throw error;
    }
  }

  /** Whether the caller has the permission by the configuration alone. */
  allowsByConfiguration(caller: Pick<Caller, 'name'>, permission: Permission): boolean {
    return this.isFirstAdministrator(caller) && FIRST_ADMINISTRATORS.includes(permission);
  }

  /** Whether it is who may create role bindings by the configuration alone. */
  isFirstAdministrator({ name }: Pick<Caller, 'name'>): boolean {
    return name === this.#parts.firstAdministrator;
  }
}

/** One caller's rights in one tenant, as its policy was when they were asked for. */
export class Rights {
  readonly caller: Caller;
  /** The tenant's, by the last part of its name. */
  readonly tenant: string;
  /** Undefined where they are in no tenant. */
  readonly tenantId: TenantId | undefined;
  readonly #policies: readonly (Policy | Error)[];
  readonly #standing: Standing;
  /** Throws where what a binding allows wants more of the caller's proof. */
  #checkProof: (permission: Permission) => void = () => {};
  /** What was asked for and not allowed, in order. */
  readonly denials: Denial[] = [];
  /** The names of the bindings that allowed something: of each permission, the last one. */
  readonly bindings = new Map<Permission, string>();

  constructor(
    caller: Caller,
    { name, tenantId }: { readonly name: string; readonly tenantId?: TenantId | undefined },
    policies: readonly (Policy | Error)[],
    standing: Standing,
  ) {
    this.caller = caller;
    this.tenant = name;
    this.tenantId = tenantId;
    this.#policies = policies;
    this.#standing = standing;
  }

  /**
   * Throws PERMISSION_MISSING unless a binding allows it; CALLER_SUSPENDED where the caller is;
   * RESOURCE_NOT_FOUND where the caller has nothing in the tenant; what loading the policy of
   * `system` threw, if that might have allowed it; what {@link Rights.checkProofs} was given
   * throws. `resource` is what the caller is told.
   */
  require(permission: Permission, target: Target, resource: string): void {
    if (this.allows(permission, target, resource)) return;
    if (this.tenant !== SYSTEM_TENANT && !this.#hasStanding())
      throw new KeywardError('RESOURCE_NOT_FOUND');
    if (this.#standing.isSuspended) throw new KeywardError('CALLER_SUSPENDED');
    throw new KeywardError('PERMISSION_MISSING', {
      message: `cannot perform the call: permission ${permission} is missing on ${resource}`,
      metadata: { permission, resource },
    });
  }

  /**
   * Whether a binding allows it, which is noted among {@link Rights.bindings}; if none does, that
   * is noted among {@link Rights.denials}. Throws what loading the policy of `system` threw, if
   * that might have allowed it, and what {@link Rights.checkProofs} was given throws.
   */
  allows(permission: Permission, target: Target, resource: string): boolean {
    const binding = this.bindingFor(permission, target);
    if (binding === undefined) this.denials.push({ permission, resource });
    else {
      this.#checkProof(permission);
      this.bindings.set(permission, binding);
    }
    return binding !== undefined;
  }

  /** Has `check` called, which may throw, for every permission that is asked for and allowed. */
  checkProofs(check: (permission: Permission) => void): void {
    this.#checkProof = check;
  }

  /** The same rights, of which is noted apart what is asked for and what allows it. */
  apart(): Rights {
    const { caller, tenant: name, tenantId } = this;
    const rights = new Rights(caller, { name, tenantId }, this.#policies, this.#standing);
    rights.checkProofs(this.#checkProof);
    return rights;
  }

  /** The name of the binding that allows it, if one does. Throws as {@link Rights.allows}. */
  bindingFor(permission: Permission, target: Target): string | undefined {
    const { isFirstAdministrator, isSuspended } = this.#standing;
    if (isFirstAdministrator && FIRST_ADMINISTRATORS.includes(permission)) return BY_CONFIGURATION;
    if (isSuspended) return undefined;
    const now = Date.now();
    for (const policy of this.#policies) {
      if (policy instanceof Error) throw policy;
      for (const grant of policy.candidates(this.caller, permission, target.key))
        if (this.#holds(policy, grant) && allows(grant, permission, target, this.caller, now))
          return bindingName(policy, grant.binding);
    }
    return undefined;
  }

  /** Whether what the policy says holds in this tenant. */
  #holds({ tenant }: Policy, { binding }: Grant): boolean {
    return tenant === this.tenant || binding.allTenants;
  }

  #hasStanding(): boolean {
    const now = Date.now();
    return (
      this.#standing.isFirstAdministrator ||
      this.#policies.some(
        (policy) =>
          !(policy instanceof Error) &&
          [...policy.grantsOf(this.caller)].some(
            (grant) => this.#holds(policy, grant) && !hasExpired(grant.binding, now),
          ),
      )
    );
  }
}

/** The binding's full name. */
export function bindingName(
  { tenant }: Pick<Policy, 'tenant'>,
  { bindingId }: Pick<RoleBinding, 'bindingId'>,
) {
  return formatRoleBindingName({ tenant }, bindingId);
}
