/**
 * Changes and lists role bindings and roles.
 *
 * - A change verifies the whole policy, seals the new one, and commits it with its audit entry and
 *   its announcement in one transaction.
 * - No member can both administer and use a key, unless the binding overrides this; the audit entry
 *   then records the override.
 * - The caller's right to change the policy is checked before.
 */
import { type Call, millisecondsLeft } from '../call.ts';
import { invalidField, KeywardError } from '../errors.ts';
import { policyDigest } from '../hsm/policy-lines.ts';
import { bindingLine, policyBytes, policyLines, roleLine } from '../hsm/policy-record.ts';
import type { Agents } from '../hsm/token-router.ts';
import type { SealKeyId, TenantId } from '../ids.ts';
import { formatRoleName, SYSTEM_TENANT } from '../names.ts';
import {
  type CustomRole,
  deleteRole,
  deleteRoleBinding,
  insertRole,
  insertRoleBinding,
  lockPolicy,
  type Member,
  type PolicyRecord,
  type RoleBinding,
  writePolicySeal,
} from '../store/access/policies.ts';
import type { Changed, Tx } from '../store/core/transaction.ts';
import type { Store } from '../store/store.ts';
import { bindingName } from './access.ts';
import { isOfSystem, isPermission, reachesTenants } from './permissions.ts';
import type { Policies } from './policies.ts';
import type { Policy } from './policy.ts';
import { bindingContent, roleContent } from './policy-entries.ts';
import { Separation, type SeparationParts } from './separation.ts';
import type { TenantIdentity } from './tenant-records.ts';

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

export interface AdministrationParts extends SeparationParts {
  readonly store: Pick<Store, 'mutate' | 'reconcile'>;
  readonly agents: Pick<Agents, 'call'>;
  /** The key that new seals are made by. Throws TOKEN_KEY_NOT_READY. */
  readonly currentSealKey: () => SealKeyId;
}

/** What is set by whoever makes one. */
export type NewRoleBinding = Omit<RoleBinding, 'createdAt' | 'creator'>;
export type NewRole = Omit<CustomRole, 'createdAt' | 'creator'>;

/** What a change makes of a policy, and what its audit entry says. */
interface PolicyChange<T> {
  readonly result: T;
  readonly changed: Changed;
  /** The line of it that comes, or goes. */
  readonly line: string;
  readonly isAdded: boolean;
}

/** Changes role bindings and roles. */
export class AccessAdministration {
  readonly #parts: AdministrationParts;
  readonly #separation: Separation;
  /** Settled when the last change of a tenant's that was asked for here is over. */
  readonly #changing = new Map<TenantId, Promise<unknown>>();

  constructor(parts: AdministrationParts) {
    this.#parts = parts;
    this.#separation = new Separation(parts);
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
    const requireSeparation = await this.#separation.prepare(call, tenant, asked);
    const resource = bindingName({ tenant: tenant.name }, asked);
    return this.#change(call, tenant, resource, async (tx, policy, now) => {
      if (reachesBeyond(policy, asked)) requireBeyond();
      requireGivable(policy, asked);
      if (!asked.overridesSeparation) await requireSeparation(tx, policy, now);
      const binding = { ...asked, createdAt: now, creator: call.caller };
      const next = { bindings: [...policy.bindings, binding], roles: policy.roles };
      requireRoom(next);
      if (bindingsOf(next, asked.member) > MAX_OF_MEMBER) throw new KeywardError('POLICY_FULL');
      await insertRoleBinding(tx, tenant.tenantId, binding);
      const changed = { kind: 'roleBinding', after: bindingContent(binding) } as const;
      return { result: binding, changed, line: bindingLine(binding), isAdded: true };
    });
  }

  /**
   * Throws RESOURCE_NOT_FOUND, POLICY_CORRUPT, and what `requireBeyond` throws, which is called for
   * a binding that creating calls it for.
   */
  async deleteBinding(
    call: Call,
    tenant: TenantIdentity,
    bindingId: string,
    requireBeyond: () => void,
  ): Promise<void> {
    const resource = bindingName({ tenant: tenant.name }, { bindingId });
    await this.#change(call, tenant, resource, async (tx, policy) => {
      const binding = policy.bindings.find((each) => each.bindingId === bindingId);
      if (binding === undefined) throw new KeywardError('RESOURCE_NOT_FOUND');
      if (reachesBeyond(policy, binding)) requireBeyond();
      await deleteRoleBinding(tx, tenant.tenantId, bindingId);
      return {
        result: undefined,
        changed: { kind: 'roleBinding', before: bindingContent(binding) },
        line: bindingLine(binding),
        isAdded: false,
      };
    });
  }

  /**
   * Throws RESOURCE_EXISTS, POLICY_FULL, POLICY_CORRUPT, INVALID_FIELD for a permission that it
   * can't have, and what `requireBeyond` throws, which is called for a role that not everyone may
   * give who may create bindings.
   */
  async createRole(
    call: Call,
    tenant: TenantIdentity,
    asked: NewRole,
    requireBeyond: () => void,
  ): Promise<CustomRole> {
    const { roleId } = asked;
    const resource = formatRoleName({ tenant: tenant.name }, roleId);
    requireOfTenant(tenant, asked);
    if (reachesTenantsFrom(tenant.name, asked.permissions)) requireBeyond();
    return this.#change(call, tenant, resource, async (tx, policy, now) => {
      const role = { ...asked, createdAt: now, creator: call.caller };
      const next = { bindings: policy.bindings, roles: [...policy.roles, role] };
      requireRoom(next);
      await insertRole(tx, tenant.tenantId, role);
      const changed = { kind: 'role', after: roleContent(role) } as const;
      return { result: role, changed, line: roleLine(role), isAdded: true };
    });
  }

  /**
   * Throws RESOURCE_NOT_FOUND, ROLE_IN_USE, POLICY_CORRUPT, and what `requireBeyond` throws, as
   * creating: who could put another role under a name that is trusted could have that given.
   */
  async deleteRole(
    call: Call,
    tenant: TenantIdentity,
    roleId: string,
    requireBeyond: () => void,
  ): Promise<void> {
    const resource = formatRoleName({ tenant: tenant.name }, roleId);
    await this.#change(call, tenant, resource, async (tx, { bindings, roles }) => {
      const role = roles.find((each) => each.roleId === roleId);
      if (role === undefined) throw new KeywardError('RESOURCE_NOT_FOUND');
      if (reachesTenantsFrom(tenant.name, role.permissions)) requireBeyond();
      if (bindings.some((each) => each.role === resource)) throw new KeywardError('ROLE_IN_USE');
      await deleteRole(tx, tenant.tenantId, roleId);
      return {
        result: undefined,
        changed: { kind: 'role', before: roleContent(role) },
        line: roleLine(role),
        isAdded: false,
      };
    });
  }

  /** The tenant's policy. Throws as {@link Policies.of}. */
  async policyOf(tenant: TenantIdentity): Promise<Policy> {
    return this.#parts.policies.of(tenant);
  }

  /** One change: the policy locked and verified, changed by `apply`, sealed, announced. */
  async #change<T>(
    call: Call,
    tenant: TenantIdentity,
    resource: string,
    apply: (tx: Tx, policy: Policy, now: Date) => Promise<PolicyChange<T>>,
  ): Promise<T> {
    const { store, policies } = this.#parts;
    const { tenantId } = tenant;
    const change = { kind: 'access', subjectId: tenantId } as const;
    const mutate = () =>
      store.mutate(call, { tenantId, resource, change }, async (tx) => {
        const { value: policy, record } = await policies.verified(tenant, call.deadline, () =>
          lockPolicy(tx, tenantId),
        );
        const { result, changed, ...change } = await apply(tx, policy, record.now);
        const revision = policy.revision + 1n;
        await this.#seal(tx, call, { tenantId, record, revision, ...change });
        tx.changed({ ...changed, policyRevision: `${revision}` });
        return result;
      });
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

  /** Seals what the change makes of a policy, as it was read, and writes the seal. */
  async #seal(
    tx: Tx,
    { deadline, warrant }: Call,
    change: Pick<PolicyChange<unknown>, 'line' | 'isAdded'> & {
      readonly tenantId: TenantId;
      readonly record: PolicyRecord;
      readonly revision: bigint;
    },
  ): Promise<void> {
    const { tenantId, record, revision, line, isAdded } = change;
    const sealKeyId = this.#parts.currentSealKey();
    const lines = policyLines(record);
    const before = record.sealed && {
      content: policyDigest(tenantId, record.sealed.revision, lines),
      sealKeyId: record.sealed.sealKeyId,
      seal: record.sealed.seal,
    };
    const { seal } = await this.#parts.agents.call(
      'sealPolicyChange',
      {
        ...{ sealKeyId, tenantId, before, lines, warrant },
        line: Buffer.from(line),
        isAdded: isAdded ? 1 : 0,
      },
      deadline,
    );
    await writePolicySeal(tx, tenantId, { revision, sealKeyId, seal: Buffer.from(seal) });
  }
}

/**
 * Whether the binding gives something in all tenants, or in `system` what no tenant's own binding
 * can give.
 */
function reachesBeyond(
  policy: Policy,
  { role, allTenants }: Pick<RoleBinding, 'role' | 'allTenants'>,
): boolean {
  return allTenants || reachesTenantsFrom(policy.tenant, policy.permissionsOfRole(role) ?? []);
}

/** Whether any of these permissions, given in that tenant, reaches beyond it. */
function reachesTenantsFrom(tenant: string, permissions: Iterable<string>): boolean {
  return tenant === SYSTEM_TENANT && [...permissions].filter(isPermission).some(reachesTenants);
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
