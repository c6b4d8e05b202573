/**
 * Changes and lists role bindings and roles, and explains why a caller may or may not do something.
 *
 * - A change verifies the whole policy, seals the new one, and commits it with its audit entry and
 *   its announcement in one transaction.
 * - No member can both administer and use a key, unless the binding overrides this; the audit entry
 *   then records the override.
 * - The caller's right to change the policy is checked before.
 */
import { isDeepStrictEqual } from 'node:util';
import { type Call, millisecondsLeft } from '../call.ts';
import { invalidField, KeywardError } from '../errors.ts';
import { RECORD } from '../hsm/record-seal.ts';
import type { Agents } from '../hsm/token-router.ts';
import type { SealKeyId, TenantId } from '../ids.ts';
import { formatRoleName, SYSTEM_TENANT } from '../names.ts';
import {
  type CustomRole,
  deleteRole,
  deleteRoleBinding,
  insertRole,
  insertRoleBinding,
  listTenantsOfMember,
  lockPolicy,
  type Member,
  type PolicyRecord,
  type RoleBinding,
  writePolicySeal,
} from '../store/access/policies.ts';
import type { Tx } from '../store/core/transaction.ts';
import type { Reference } from '../store/request-ids.ts';
import type { Store } from '../store/store.ts';
import { bindingName } from './access.ts';
import {
  dutiesOf,
  isOfSystem,
  isPermission,
  type Permission,
  reachesTenants,
} from './permissions.ts';
import type { Policies, TenantIdentity } from './policies.ts';
import {
  type Grant,
  hasExpired,
  type Obstacle,
  obstaclesOf,
  type Policy,
  patternsOverlap,
  type Subject,
  type Target,
} from './policy.ts';
import { policyBytes, policyContent } from './policy-seal.ts';

/** A policy is loaded, and hashed, as a whole. */
const MAX_BINDINGS = 20_000;
const MAX_ROLES = 200;
/**
 * All of a caller's are looked at for each decision, and a batch asks for a thousand: 20,000 would
 * take seconds.
 */
const MAX_OF_MEMBER = 500;
/** Of the lines that the seal is over; 20,000 bindings of common size take half of it. */
const MAX_BYTES = 8 * 1024 * 1024;

export interface AdministrationParts {
  readonly store: Pick<Store, 'mutate' | 'reconcile'>;
  readonly agents: Pick<Agents, 'call'>;
  readonly policies: Policies;
  readonly system: TenantIdentity;
  /** The tenant of that name. Throws RESOURCE_NOT_FOUND. */
  readonly tenantOf: (name: string) => Promise<TenantIdentity>;
  /** The key that new seals are made by. Throws TOKEN_KEY_NOT_READY. */
  readonly currentSealKey: () => SealKeyId;
}

/** What is set by whoever makes one. */
export type NewRoleBinding = Omit<RoleBinding, 'createdAt' | 'creator'>;
export type NewRole = Omit<CustomRole, 'createdAt' | 'creator'>;

/** A binding that was looked at, and what it lacks. */
export interface Considered {
  readonly name: string;
  readonly role: string;
  readonly obstacles: readonly Obstacle[];
}

/** Changes role bindings and roles, and explains what a caller may do. */
export class AccessAdministration {
  readonly #parts: AdministrationParts;
  /** Settled when the last change of a tenant's that was asked for here is over. */
  readonly #changing = new Map<TenantId, Promise<unknown>>();

  constructor(parts: AdministrationParts) {
    this.#parts = parts;
  }

  /**
   * Throws RESOURCE_EXISTS, SEPARATION_OF_DUTIES, POLICY_FULL, POLICY_CORRUPT, INVALID_FIELD for a
   * role that there isn't, and what `requireBeyond` throws, which is called for a binding that
   * gives more than anybody may give who may create bindings. By the policy as it is changed, and
   * not as it is remembered: a role may have been made anew.
   */
  async createBinding(
    call: Call,
    tenant: TenantIdentity,
    asked: NewRoleBinding,
    requireBeyond: () => void,
  ): Promise<RoleBinding> {
    const elsewhere = await this.#grantedElsewhere(call, tenant, asked);
    const { bindingId } = asked;
    const resource = bindingName({ tenant: tenant.name }, asked);
    const detail = asked.overridesSeparation ? 'separation of duties overridden' : '';
    return this.#change(
      call,
      tenant,
      { resource, detail, reference: { bindingId } },
      async (tx, policy, now) => {
        if (reachesBeyond(policy, asked)) requireBeyond();
        requireGivable(policy, asked);
        if (!asked.overridesSeparation) requireSeparation(policy, asked, elsewhere, now);
        const binding = { ...asked, createdAt: now, creator: call.caller };
        const next = { bindings: [...policy.bindings, binding], roles: policy.roles };
        requireRoom(next);
        if (bindingsOf(next, asked.member) > MAX_OF_MEMBER) throw new KeywardError('POLICY_FULL');
        await insertRoleBinding(tx, tenant.tenantId, binding);
        return { result: binding, ...next };
      },
      (policy, before) => {
        if (reachesBeyond(policy, asked)) requireBeyond();
        return policy.bindings.find((each) => isMadeBy(call, each, { ...asked, ...before }));
      },
    );
  }

  /** Throws RESOURCE_NOT_FOUND, POLICY_CORRUPT. */
  async deleteBinding(call: Call, tenant: TenantIdentity, bindingId: string): Promise<void> {
    const resource = bindingName({ tenant: tenant.name }, { bindingId });
    await this.#change(
      call,
      tenant,
      { resource, reference: { bindingId } },
      async (tx, { bindings, roles }) => {
        if (!(await deleteRoleBinding(tx, tenant.tenantId, bindingId)))
          throw new KeywardError('RESOURCE_NOT_FOUND');
        return {
          result: true,
          bindings: bindings.filter((each) => each.bindingId !== bindingId),
          roles,
        };
      },
      () => true,
    );
  }

  /**
   * Throws RESOURCE_EXISTS, POLICY_FULL, POLICY_CORRUPT, INVALID_FIELD for a permission that it
   * can't have.
   */
  async createRole(call: Call, tenant: TenantIdentity, asked: NewRole): Promise<CustomRole> {
    const { roleId } = asked;
    const resource = formatRoleName({ tenant: tenant.name }, roleId);
    requireOfTenant(tenant, asked);
    return this.#change(
      call,
      tenant,
      { resource, reference: { roleId } },
      async (tx, policy, now) => {
        const role = { ...asked, createdAt: now, creator: call.caller };
        const next = { bindings: policy.bindings, roles: [...policy.roles, role] };
        requireRoom(next);
        await insertRole(tx, tenant.tenantId, role);
        return { result: role, ...next };
      },
      (policy) => policy.roles.find((each) => isMadeBy(call, each, asked)),
    );
  }

  /** Throws RESOURCE_NOT_FOUND, ROLE_IN_USE, POLICY_CORRUPT. */
  async deleteRole(call: Call, tenant: TenantIdentity, roleId: string): Promise<void> {
    const resource = formatRoleName({ tenant: tenant.name }, roleId);
    await this.#change(
      call,
      tenant,
      { resource, reference: { roleId } },
      async (tx, { bindings, roles }) => {
        if (bindings.some(({ role }) => role === resource)) throw new KeywardError('ROLE_IN_USE');
        if (!(await deleteRole(tx, tenant.tenantId, roleId)))
          throw new KeywardError('RESOURCE_NOT_FOUND');
        return { result: true, bindings, roles: roles.filter((each) => each.roleId !== roleId) };
      },
      () => true,
    );
  }

  /** The tenant's policy. Throws as {@link Policies.of}. */
  policyOf(tenant: TenantIdentity): Promise<Policy> {
    return this.#parts.policies.of(tenant);
  }

  /**
   * Every binding of the subject that holds in the tenant, and what keeps it from allowing this.
   */
  async explain(
    tenant: TenantIdentity,
    subject: Subject,
    permission: Permission,
    target: Target,
  ): Promise<Considered[]> {
    const { policies, system } = this.#parts;
    const own = await policies.of(tenant);
    const everywhere = tenant.tenantId === system.tenantId ? own : await policies.of(system);
    const considered = (policy: Policy, grants: readonly Grant[]) =>
      grants.map((grant) => ({
        name: bindingName(policy, grant.binding),
        role: grant.binding.role,
        obstacles: obstaclesOf(grant, permission, target, subject, Date.now()),
      }));
    const ofAll = [...everywhere.grantsOf(subject)].filter(({ binding }) => binding.allTenants);
    return [
      ...considered(own, [...own.grantsOf(subject)]),
      ...(everywhere === own ? [] : considered(everywhere, ofAll)),
    ];
  }

  /** One change: the policy locked and verified, changed by `apply`, sealed, announced. */
  async #change<T>(
    call: Call,
    tenant: TenantIdentity,
    what: { readonly resource: string; readonly detail?: string; readonly reference: Reference },
    apply: (
      tx: Tx,
      policy: Policy,
      now: Date,
    ) => Promise<Pick<PolicyRecord, 'bindings' | 'roles'> & { readonly result: T }>,
    rebuild: (policy: Policy, before: Reference) => T | undefined,
  ): Promise<T> {
    const { store, policies } = this.#parts;
    const { tenantId } = tenant;
    const locked = (tx: Tx) =>
      policies.verified(tenant, call.deadline, () => lockPolicy(tx, tenantId));
    const { resource, detail, reference } = what;
    const change = { kind: 'access', subjectId: tenantId } as const;
    const mutate = () =>
      store.mutate(
        call,
        { tenantId, resource, change, ...(detail ? { detail } : {}) },
        async (tx) => {
          const { policy, record } = await locked(tx);
          const { result, ...next } = await apply(tx, policy, record.now);
          await this.#seal(tx, call, tenantId, policy.revision + 1n, next);
          return result;
        },
        {
          reference,
          rebuild: async (tx, before) => {
            const found = rebuild((await locked(tx)).policy, before);
            if (found === undefined) throw new KeywardError('RESOURCE_NOT_FOUND');
            return found;
          },
        },
      );
    const result = await this.#inTurn(call, tenantId, mutate);
    policies.forget(tenantId);
    return result;
  }

  /**
   * One change of a tenant's after another: those that wait for it hold no connection, which all
   * tenants share.
   */
  #inTurn<T>({ deadline }: Call, tenantId: TenantId, change: () => Promise<T>): Promise<T> {
    const before = this.#changing.get(tenantId) ?? Promise.resolve();
    const changed = before.then(() => {
      if (millisecondsLeft(deadline) <= 0) throw new KeywardError('DEADLINE_EXCEEDED');
      return change();
    });
    const over = changed
      .catch(() => {})
      .finally(() => {
        if (this.#changing.get(tenantId) === over) this.#changing.delete(tenantId);
      });
    this.#changing.set(tenantId, over);
    return changed;
  }

  async #seal(
    tx: Tx,
    { deadline }: Call,
    tenantId: TenantId,
    revision: bigint,
    next: Pick<PolicyRecord, 'bindings' | 'roles'>,
  ): Promise<void> {
    const sealKeyId = this.#parts.currentSealKey();
    const contents = [policyContent(tenantId, revision, next)];
    const request = { sealKeyId, kind: RECORD.policy, contents };
    const { seals } = await this.#parts.agents.call('sealRecords', request, deadline);
    await writePolicySeal(tx, tenantId, { revision, sealKeyId, seal: seals[0] as Buffer });
  }

  /**
   * What else the member has that a binding in this tenant comes together with, by other policies:
   * as they are remembered, since no transaction sees two tenants.
   */
  async #grantedElsewhere(
    call: Call,
    tenant: TenantIdentity,
    { member, allTenants }: NewRoleBinding,
  ): Promise<readonly Grant[]> {
    const { policies, system, store, tenantOf } = this.#parts;
    const subject =
      member.kind === 'principal'
        ? { name: member.name, groups: [] }
        : { name: '', groups: [member.name] };
    if (!allTenants) {
      if (tenant.tenantId === system.tenantId) return [];
      const everywhere = await policies.of(system);
      return [...everywhere.grantsOf(subject)].filter(({ binding }) => binding.allTenants);
    }
    const names = await store.reconcile(call, (tx) => listTenantsOfMember(tx, member));
    const others = await Promise.all(names.map(async (name) => policies.of(await tenantOf(name))));
    return others.flatMap((policy) =>
      policy.tenant === tenant.name ? [] : [...policy.grantsOf(subject)],
    );
  }
}

/**
 * Whether the binding gives something in all tenants, or in `system` what no tenant's own binding
 * can give.
 */
function reachesBeyond(policy: Policy, { role, allTenants }: NewRoleBinding): boolean {
  if (allTenants) return true;
  return (
    policy.tenant === SYSTEM_TENANT &&
    [...(policy.permissionsOfRole(role) ?? [])].some(reachesTenants)
  );
}

/** Whether it is what the call asked for before, and not another that has its name by now. */
function isMadeBy(
  { caller }: Call,
  { createdAt: _, creator, ...made }: RoleBinding | CustomRole,
  asked: NewRoleBinding | NewRole,
): boolean {
  return creator === caller && isDeepStrictEqual(made, asked);
}

/** Throws POLICY_FULL for more than every replica can hold, of every tenant. */
function requireRoom(next: Pick<PolicyRecord, 'bindings' | 'roles'>): void {
  const { bindings, roles } = next;
  if (bindings.length > MAX_BINDINGS || roles.length > MAX_ROLES || policyBytes(next) > MAX_BYTES)
    throw new KeywardError('POLICY_FULL');
}

function bindingsOf({ bindings }: Pick<PolicyRecord, 'bindings'>, { kind, name }: Member): number {
  return bindings.filter(({ member }) => member.kind === kind && member.name === name).length;
}

/** Throws INVALID_FIELD for a role that there isn't, or that reaches beyond the tenant. */
function requireGivable(policy: Policy, { role, allTenants }: NewRoleBinding): void {
  const isSystem = policy.tenant === SYSTEM_TENANT;
  if (policy.permissionsOfRole(role) === undefined)
    throw invalidField(
      'role_binding.role',
      'must be a predefined role or one of this tenant’s own',
    );
  if (role === 'roles/rootAdmin' && !isSystem)
    throw invalidField('role_binding.role', 'must be bound in tenants/system');
  if (allTenants && !isSystem)
    throw invalidField('role_binding.all_tenants', 'must be set in tenants/system only');
}

/** Throws INVALID_FIELD for a permission that there isn't, or that nobody would have by it. */
function requireOfTenant({ name }: TenantIdentity, { permissions }: NewRole): void {
  for (const permission of permissions) {
    if (!isPermission(permission))
      throw invalidField(
        'role.permissions',
        `must not have ${permission}, which is not a permission`,
      );
    if (name !== SYSTEM_TENANT && isOfSystem(permission))
      throw invalidField(
        'role.permissions',
        `must not have ${permission}, which only a role of tenants/system can have`,
      );
  }
}

/** Throws SEPARATION_OF_DUTIES where the member would both administer and use a key. */
function requireSeparation(
  policy: Policy,
  asked: NewRoleBinding,
  elsewhere: readonly Grant[],
  now: Date,
): void {
  const given = policy.permissionsOfRole(asked.role) ?? [];
  // What the member has besides may be meant to be both.
  if (dutiesOf(given).size === 0) return;
  const { name, kind } = asked.member;
  const subject = kind === 'principal' ? { name, groups: [] } : { name: '', groups: [name] };
  const together = [...policy.grantsOf(subject), ...elsewhere].filter(
    ({ binding }) =>
      !hasExpired(binding, now.getTime()) && patternsOverlap(binding.keyPattern, asked.keyPattern),
  );
  const permissions = together.flatMap((grant) => [...grant.permissions]);
  const duties = dutiesOf([...given, ...permissions]);
  if (duties.size > 1) throw new KeywardError('SEPARATION_OF_DUTIES');
}
