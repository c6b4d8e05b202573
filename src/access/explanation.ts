/**
 * Explains why a caller may or may not do something, as a call of theirs would be decided.
 *
 * - What a call's proof must be is part of the answer: a token's tenants restrict its caller, and a
 *   caller without a configured issuer makes no call.
 * - Reads policies only, and decides nothing.
 */
import { SYSTEM_TENANT } from '../names.ts';
import { type Access, BY_CONFIGURATION, bindingName } from './access.ts';
import type { Permission } from './permissions.ts';
import type { Policies } from './policies.ts';
import {
  type Grant,
  type Obstacle as ObstacleOfBinding,
  obstaclesOf,
  type Policy,
  type Subject,
  type Target,
} from './policy.ts';
import type { TenantIdentity } from './tenant-records.ts';

/** What {@link Explanation} stands on. */
export interface ExplanationParts {
  readonly access: Pick<Access, 'allowsByConfiguration'>;
  readonly policies: Pick<Policies, 'of'>;
  /** The tenant of that name. Throws RESOURCE_NOT_FOUND, TENANT_CORRUPT. */
  readonly tenantOf: (name: string) => TenantIdentity | Promise<TenantIdentity>;
  /** Whether an issuer's tokens name tenants; undefined where it is not configured. */
  readonly limitsTenants: (issuer: string) => boolean | undefined;
}

/** The caller that is asked about, and what their token would have. */
export interface AskedCaller extends Subject {
  /** The only tenants that the token is valid for; undefined where that is not told. */
  readonly tenants?: readonly string[] | undefined;
}

/** Names why a binding does not allow a call of this caller. */
export type Obstacle = ObstacleOfBinding | 'tenant' | 'issuer';

/** A binding that was looked at, and what keeps it from allowing the call. */
export interface Considered {
  readonly name: string;
  /** Empty for what the configuration allows. */
  readonly role: string;
  readonly obstacles: readonly Obstacle[];
}

/** Every binding of a caller that holds in a tenant. */
export interface Explained {
  readonly considered: readonly Considered[];
  /** The tenant that a token must be valid for, where its tenants matter and are not told. */
  readonly tokenTenant: string | undefined;
}

const TOKEN_CALLER = /^jwt:([^/]*)\//;

/** Returns the issuer in the name of a caller by a token; undefined for one by a certificate. */
export function issuerOf(name: string): string | undefined {
  return TOKEN_CALLER.exec(name)?.[1];
}

/** Explains what callers may do. */
export class Explanation {
  readonly #parts: ExplanationParts;

  constructor(parts: ExplanationParts) {
    this.#parts = parts;
  }

  /** Returns every binding of the caller that holds in the tenant, and what it lacks. */
  async of(
    tenant: TenantIdentity,
    caller: AskedCaller,
    permission: Permission,
    target: Target,
  ): Promise<Explained> {
    const { policies, tenantOf, limitsTenants } = this.#parts;
    const own = await policies.of(tenant);
    const everywhere =
      tenant.name === SYSTEM_TENANT ? own : await policies.of(await tenantOf(SYSTEM_TENANT));
    const issuer = issuerOf(caller.name);
    const namesTenants = issuer === undefined ? false : limitsTenants(issuer);
    const ofProof: Obstacle[] = [];
    if (namesTenants === undefined) ofProof.push('issuer');
    if (caller.tenants?.includes(tenant.name) === false) ofProof.push('tenant');
    const consider = (policy: Policy, grants: readonly Grant[]): Considered[] =>
      grants.map((grant) => ({
        name: bindingName(policy, grant.binding),
        role: grant.binding.role,
        obstacles: [...obstaclesOf(grant, permission, target, caller, Date.now()), ...ofProof],
      }));
    const ofAll = [...everywhere.grantsOf(caller)].filter(({ binding }) => binding.allTenants);
    const considered = [
      ...this.#byConfiguration(caller, permission, ofProof),
      ...consider(own, [...own.grantsOf(caller)]),
      ...(everywhere === own ? [] : consider(everywhere, ofAll)),
    ];
    const isTold = caller.tenants !== undefined || namesTenants !== true;
    return { considered, tokenTenant: isTold ? undefined : tenant.name };
  }

  /** What the first administrator may do without a binding. */
  #byConfiguration(
    caller: AskedCaller,
    permission: Permission,
    obstacles: readonly Obstacle[],
  ): Considered[] {
    return this.#parts.access.allowsByConfiguration(caller, permission)
      ? [{ name: BY_CONFIGURATION, role: '', obstacles }]
      : [];
  }
}
