/**
 * Keeps duties apart: no member both administers and uses a key, whichever tenants' bindings give
 * them that.
 *
 * - What a member has in several policies is decided under a lock on the member, by policies as
 *   they are committed then: of two bindings made at once, the later one sees the earlier.
 * - A binding's own policy is locked before the member is, and no other policy is locked.
 */
import type { Call } from '../call.ts';
import { KeywardError } from '../errors.ts';
import type { TenantId } from '../ids.ts';
import { SYSTEM_TENANT } from '../names.ts';
import {
  findPolicy,
  findRevisions,
  listTenantsOfMember,
  lockMember,
  type Member,
  type RoleBinding,
} from '../store/access/policies.ts';
import { acrossTenants } from '../store/core/across-tenants.ts';
import type { Tx } from '../store/core/transaction.ts';
import type { Store } from '../store/store.ts';
import { dutiesOf } from './permissions.ts';
import type { Policies } from './policies.ts';
import { type Grant, hasExpired, type Policy, patternsOverlap, type Subject } from './policy.ts';
import type { TenantIdentity } from './tenant-records.ts';

/** What {@link Separation} stands on. */
export interface SeparationParts {
  readonly store: Pick<Store, 'reconcile'>;
  readonly policies: Policies;
  /** The tenant of that name. Throws RESOURCE_NOT_FOUND, TENANT_CORRUPT. */
  readonly tenantOf: (name: string) => TenantIdentity | Promise<TenantIdentity>;
  /** The tenant of that UUID; undefined for a shredded one. Throws TENANT_CORRUPT. */
  readonly tenantById: (tenantId: TenantId) => Promise<TenantIdentity | undefined>;
}

/** What a binding gives, as far as duties go. */
type Given = Pick<RoleBinding, 'member' | 'role' | 'keyPattern' | 'allTenants'>;

/** Another policy that may give the member something, and as what it is remembered. */
interface Other {
  readonly tenant: TenantIdentity;
  readonly remembered: Policy;
}

/** Keeps duties apart between a tenant's bindings and those of other tenants. */
export class Separation {
  readonly #parts: SeparationParts;

  constructor(parts: SeparationParts) {
    this.#parts = parts;
  }

  /**
   * Returns what requires, in the transaction that makes the binding and has locked its policy,
   * that it keeps duties apart: throws SEPARATION_OF_DUTIES where the member would both administer
   * and use a key. Loads other policies before, so that the transaction seldom has to.
   */
  async prepare(
    call: Call,
    tenant: TenantIdentity,
    given: Given,
  ): Promise<(tx: Tx, policy: Policy, now: Date) => Promise<void>> {
    const before = await this.#others(call, tenant, given);
    return async (tx, policy, now) => {
      const permissions = policy.permissionsOfRole(given.role) ?? [];
      // What the member has besides may be meant to be both.
      if (dutiesOf(permissions).size === 0) return;
      await lockMember(tx, given.member);
      const others = await this.#committed(tx, call, given, before, tenant);
      requireApart(policy, given, others, now);
    };
  }

  /** The other policies that count, as they are remembered. */
  async #others(call: Call, tenant: TenantIdentity, given: Given): Promise<readonly Other[]> {
    const { policies, store, tenantOf } = this.#parts;
    const remember = async (other: TenantIdentity) => ({
      tenant: other,
      remembered: await policies.of(other),
    });
    if (!given.allTenants)
      return tenant.name === SYSTEM_TENANT ? [] : [await remember(await tenantOf(SYSTEM_TENANT))];
    const found = await store.reconcile(call, (tx) => listTenantsOfMember(tx, given.member));
    return Promise.all((await this.#existing(found, tenant)).map(remember));
  }

  /** Of these tenants those that aren't shredded, without the binding's own. */
  async #existing(ids: readonly TenantId[], own: TenantIdentity): Promise<TenantIdentity[]> {
    const others = ids.filter((tenantId) => tenantId !== own.tenantId);
    const found = await Promise.all(others.map((each) => this.#parts.tenantById(each)));
    return found.filter((each) => each !== undefined);
  }

  /** The other policies that count, as they are committed now; each verified. */
  #committed(
    tx: Tx,
    { deadline }: Call,
    { member, allTenants }: Given,
    before: readonly Other[],
    own: TenantIdentity,
  ): Promise<readonly Policy[]> {
    const remembered = new Map(before.map((other) => [other.tenant.tenantId, other]));
    return acrossTenants(tx, async () => {
      const tenants = new Map(before.map(({ tenant }) => [tenant.tenantId, tenant]));
      if (allTenants)
        for (const tenant of await this.#existing(await listTenantsOfMember(tx, member), own))
          tenants.set(tenant.tenantId, tenant);
      const revisions = await findRevisions(tx, [...tenants.keys()]);
      const committed: Policy[] = [];
      for (const [tenantId, tenant] of tenants) {
        const known = remembered.get(tenantId)?.remembered;
        const isNewest = known?.revision === (revisions.get(tenantId) ?? 0n);
        committed.push(isNewest && known ? known : await this.#verified(tx, tenant, deadline));
      }
      return committed;
    });
  }

  async #verified(tx: Tx, tenant: TenantIdentity, deadline: number): Promise<Policy> {
    const read = () => findPolicy(tx, tenant.tenantId);
    return (await this.#parts.policies.verified(tenant, deadline, read)).value;
  }
}

/** Throws SEPARATION_OF_DUTIES where the member would both administer and use a key. */
function requireApart(
  policy: Policy,
  { member, role, keyPattern, allTenants }: Given,
  others: readonly Policy[],
  now: Date,
): void {
  const subject = subjectOf(member);
  // Of another tenant's policy, that of all tenants holds here; a binding for all, everywhere.
  const elsewhere = others.flatMap((other) =>
    [...other.grantsOf(subject)].filter(({ binding }) => allTenants || binding.allTenants),
  );
  const together = [...policy.grantsOf(subject), ...elsewhere].filter(
    ({ binding }: Grant) =>
      !hasExpired(binding, now.getTime()) && patternsOverlap(binding.keyPattern, keyPattern),
  );
  const permissions = together.flatMap((grant) => [...grant.permissions]);
  const duties = dutiesOf([...(policy.permissionsOfRole(role) ?? []), ...permissions]);
  if (duties.size > 1) throw new KeywardError('SEPARATION_OF_DUTIES');
}

function subjectOf({ kind, name }: Member): Pick<Subject, 'name' | 'groups'> {
  return kind === 'principal' ? { name, groups: [] } : { name: '', groups: [name] };
}
