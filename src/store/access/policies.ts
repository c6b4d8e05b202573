/**
 * Policies, as rows: a tenant's role bindings, its own roles, and the seal over all of them.
 *
 * Invariant: a policy is read in one statement, so that bindings, roles and seal are of one moment.
 * Whoever changes one has locked it. Every function wants a transaction that is bound to the
 * tenant, but where it says otherwise. What a binding means, and what the seal is computed over,
 * isn't known here.
 */
import { KeywardError } from '../../errors.ts';
import type { SealKeyId, TenantId } from '../../ids.ts';
import { atMost, firstUnder } from '../core/batches.ts';
import { lockedInOrder } from '../core/row-locks.ts';
import type { Query, Tx } from '../core/transaction.ts';
import { holdSealKey, holdSealKeys } from '../hsm-token/token-objects.ts';

/** What an entry of the encryption context must be. */
export interface ContextCondition {
  readonly contextKey: string;
  readonly requirement:
    | { readonly kind: 'equals'; readonly value: string }
    | { readonly kind: 'oneOf'; readonly values: readonly string[] }
    /** What the caller's token has in this claim: names, one within the other. */
    | { readonly kind: 'claim'; readonly path: readonly string[] };
}

/** To whom a role is given: a caller's name, or `{issuer}/{group}`. */
export interface Member {
  readonly kind: 'principal' | 'group';
  readonly name: string;
}

/** A role, given. */
export interface RoleBinding {
  /** The last part of its name. */
  readonly bindingId: string;
  readonly member: Member;
  /** `roles/{role}`, or `tenants/{tenant}/roles/{role}` of the same tenant. */
  readonly role: string;
  /** Empty for everything of the tenant; else for some keys only. */
  readonly keyPattern: string;
  /** Holds in all tenants; only in the tenant `system`. */
  readonly allTenants: boolean;
  readonly expiresAt: Date | null;
  readonly conditions: readonly ContextCondition[];
  readonly overridesSeparation: boolean;
  readonly description: string;
  /** By the database's clock, in milliseconds. */
  readonly createdAt: Date;
  readonly creator: string;
}

/** A role of a tenant's own. */
export interface CustomRole {
  /** The last part of its name. */
  readonly roleId: string;
  readonly permissions: readonly string[];
  readonly description: string;
  readonly createdAt: Date;
  readonly creator: string;
}

/** All that the database says of who may do what in a tenant. */
export interface PolicyRecord {
  /** Ordered by id. */
  readonly bindings: readonly RoleBinding[];
  readonly roles: readonly CustomRole[];
  /** Absent where nothing was ever given. */
  readonly sealed?: PolicySeal;
}

export interface PolicySeal {
  /** Counts the policy's changes. */
  readonly revision: bigint;
  readonly sealKeyId: SealKeyId;
  readonly seal: Buffer;
}

interface BindingRow {
  binding_id: string;
  member_kind: Member['kind'];
  member: string;
  role: string;
  key_pattern: string;
  all_tenants: boolean;
  expires_at: number | null;
  conditions: ContextCondition[];
  overrides_separation: boolean;
  description: string;
  created_at: number;
  creator: string;
}

interface RoleRow {
  role_id: string;
  permissions: string[];
  description: string;
  created_at: number;
  creator: string;
}

const MILLISECONDS = (column: string) => `(extract(epoch FROM ${column}) * 1000)::float8`;

const SELECT_BINDINGS = `SELECT binding_id, member_kind, member, role, key_pattern, all_tenants,
    ${MILLISECONDS('expires_at')} AS expires_at, conditions, overrides_separation, description,
    ${MILLISECONDS('created_at')} AS created_at, creator
  FROM role_bindings`;

const SELECT_POLICY = `SELECT p.revision, p.seal_key_id, p.seal,
    (SELECT coalesce(json_agg(b ORDER BY b.binding_id), '[]') FROM (${SELECT_BINDINGS} WHERE tenant_id = $1) b) AS bindings,
    (SELECT coalesce(json_agg(r ORDER BY r.role_id), '[]')
     FROM (SELECT role_id, permissions, description, ${MILLISECONDS('created_at')} AS created_at, creator
           FROM roles WHERE tenant_id = $1) r) AS roles
  FROM (SELECT 1) one LEFT JOIN access_policies p ON p.tenant_id = $1`;

/** The tenant's policy as the database has it, not verified. */
export async function findPolicy(
  tx: { readonly query: Query },
  tenantId: TenantId,
): Promise<PolicyRecord> {
  const [row] = await tx.query<{
    revision: string | null;
    seal_key_id: SealKeyId;
    seal: Buffer;
    bindings: BindingRow[];
    roles: RoleRow[];
  }>(SELECT_POLICY, [tenantId]);
  if (row === undefined) throw new Error('a policy query returned no row');
  const { revision, seal_key_id: sealKeyId, seal } = row;
  const bindings = row.bindings.map(fromBindingRow);
  const roles = row.roles.map(fromRoleRow);
  return revision === null
    ? { bindings, roles }
    : { bindings, roles, sealed: { revision: BigInt(revision), sealKeyId, seal } };
}

function fromBindingRow(row: BindingRow): RoleBinding {
  return {
    bindingId: row.binding_id,
    member: { kind: row.member_kind, name: row.member },
    role: row.role,
    keyPattern: row.key_pattern,
    allTenants: row.all_tenants,
    expiresAt: row.expires_at === null ? null : new Date(row.expires_at),
    conditions: row.conditions,
    overridesSeparation: row.overrides_separation,
    description: row.description,
    createdAt: new Date(row.created_at),
    creator: row.creator,
  };
}

function fromRoleRow(row: RoleRow): CustomRole {
  const { role_id: roleId, permissions, description, creator } = row;
  return { roleId, permissions, description, createdAt: new Date(row.created_at), creator };
}

/**
 * Keeps everyone else from changing the tenant's policy until the transaction ends; returns it as
 * it then is.
 */
export async function lockPolicy(
  tx: Tx,
  tenantId: TenantId,
): Promise<PolicyRecord & { readonly now: Date }> {
  await tx.query(
    "SELECT pg_advisory_xact_lock(hashtextextended('access policy ' || $1::uuid, 0))",
    [tenantId],
  );
  const [clock] = await tx.query<{ now: Date }>(
    "SELECT date_trunc('milliseconds', clock_timestamp()) AS now",
  );
  if (clock === undefined) throw new Error('the database tells no time');
  return { ...(await findPolicy(tx, tenantId)), now: clock.now };
}

/**
 * Puts the seal of a policy that this transaction has locked and changed. The seal key stays
 * current until the transaction ends. Throws TOKEN_KEY_NOT_READY where it isn't.
 */
export async function writePolicySeal(
  tx: Tx,
  tenantId: TenantId,
  sealed: PolicySeal,
): Promise<void> {
  if (!(await holdSealKey(tx, sealed.sealKeyId))) throw new KeywardError('TOKEN_KEY_NOT_READY');
  await tx.query(
    `INSERT INTO access_policies (tenant_id, revision, seal_key_id, seal) VALUES ($1, $2, $3, $4)
     ON CONFLICT (tenant_id) DO UPDATE
       SET revision = excluded.revision, seal_key_id = excluded.seal_key_id, seal = excluded.seal`,
    [tenantId, sealed.revision.toString(), sealed.sealKeyId, sealed.seal],
  );
}

/**
 * A Date would be sent in local time, which of long ago is off by seconds in many places: then no
 * seal matches.
 */
function instant(time: Date): string {
  return time.toISOString();
}

/** Throws RESOURCE_EXISTS when the id is taken. */
export async function insertRoleBinding(
  tx: Tx,
  tenantId: TenantId,
  binding: RoleBinding,
): Promise<void> {
  const inserted = await tx.query(
    `INSERT INTO role_bindings (tenant_id, binding_id, member_kind, member, role, key_pattern, all_tenants, expires_at,
       conditions, overrides_separation, description, created_at, creator)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
     ON CONFLICT DO NOTHING RETURNING 1`,
    [
      tenantId,
      binding.bindingId,
      binding.member.kind,
      binding.member.name,
      binding.role,
      binding.keyPattern,
      binding.allTenants,
      binding.expiresAt && instant(binding.expiresAt),
      JSON.stringify(binding.conditions),
      binding.overridesSeparation,
      binding.description,
      instant(binding.createdAt),
      binding.creator,
    ],
  );
  if (inserted.length === 0) throw new KeywardError('RESOURCE_EXISTS');
}

/** Whether it was there. */
export async function deleteRoleBinding(
  tx: Tx,
  tenantId: TenantId,
  bindingId: string,
): Promise<boolean> {
  const deleted = await tx.query(
    'DELETE FROM role_bindings WHERE tenant_id = $1 AND binding_id = $2 RETURNING 1',
    [tenantId, bindingId],
  );
  return deleted.length > 0;
}

/** Throws RESOURCE_EXISTS when the id is taken. */
export async function insertRole(tx: Tx, tenantId: TenantId, role: CustomRole): Promise<void> {
  const inserted = await tx.query(
    `INSERT INTO roles (tenant_id, role_id, permissions, description, created_at, creator)
     VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING RETURNING 1`,
    [
      tenantId,
      role.roleId,
      role.permissions,
      role.description,
      instant(role.createdAt),
      role.creator,
    ],
  );
  if (inserted.length === 0) throw new KeywardError('RESOURCE_EXISTS');
}

/** Whether it was there. */
export async function deleteRole(tx: Tx, tenantId: TenantId, roleId: string): Promise<boolean> {
  const deleted = await tx.query(
    'DELETE FROM roles WHERE tenant_id = $1 AND role_id = $2 RETURNING 1',
    [tenantId, roleId],
  );
  return deleted.length > 0;
}

/**
 * The tenants in which something is given to the member, as far as the database says; shredded ones
 * among them. By the reconciler.
 */
export async function listTenantsOfMember(tx: Tx, { kind, name }: Member): Promise<TenantId[]> {
  const rows = await tx.query<{ tenant_id: TenantId }>(
    'SELECT DISTINCT tenant_id FROM role_bindings WHERE member_kind = $1 AND member = $2',
    [kind, name],
  );
  return rows.map((row) => row.tenant_id);
}

/** Keeps others from taking the same lock on a member until the transaction ends. */
export async function lockMember(tx: Tx, { kind, name }: Member): Promise<void> {
  await tx.query(
    "SELECT pg_advisory_xact_lock(hashtextextended('member ' || $1 || ' ' || $2, 0))",
    [kind, name],
  );
}

/** The revisions of tenants' policies, as the database has them now. By the reconciler. */
export async function findRevisions(
  tx: Tx,
  tenantIds: readonly TenantId[],
): Promise<ReadonlyMap<TenantId, bigint>> {
  const rows = await tx.query<{ tenant_id: TenantId; revision: string }>(
    'SELECT tenant_id, revision FROM access_policies WHERE tenant_id = ANY ($1::uuid[])',
    [tenantIds],
  );
  return new Map(rows.map((row) => [row.tenant_id, BigInt(row.revision)]));
}

/** Seal keys, as `o`, that were replaced and have policies under them. */
const FROM_FORMER_KEYS = `FROM token_objects o WHERE o.role = 'seal' AND NOT o.is_current AND o.state <> 'DESTROYED'
  AND ${firstUnder('access_policies', 'seal_key_id', 'tenant_id')}`;
/** Whether {@link findFormerPolicyKeys} finds any. */
export const HAS_STALE_POLICIES = `EXISTS (SELECT ${FROM_FORMER_KEYS})`;

/** The seal keys that were replaced and have policies under them. */
export async function findFormerPolicyKeys(query: Query): Promise<SealKeyId[]> {
  const rows = await query<{ id: SealKeyId }>(
    `SELECT o.object_id AS id ${FROM_FORMER_KEYS} ORDER BY o.created_at`,
  );
  return rows.map(({ id }) => id);
}

/** A policy under a seal key that was replaced. */
export interface StalePolicy {
  readonly tenantId: TenantId;
  /** The last part of the tenant's name. */
  readonly tenant: string;
  readonly policy: PolicyRecord;
  /** The current seal key. */
  readonly sealKeyId: SealKeyId;
}

/**
 * The next at most `size` policies under a seal key that was replaced, behind a tenant. With the
 * reconciler's rights, or the owner's.
 */
export async function readStalePolicies(
  query: Query,
  former: SealKeyId,
  after: TenantId | undefined,
  size: number,
): Promise<StalePolicy[]> {
  const rows = await query<{ tenant_id: TenantId; tenant: string; to_seal: SealKeyId }>(
    `SELECT p.tenant_id, t.name AS tenant, current_seal.object_id AS to_seal
     FROM access_policies p JOIN tenants t ON t.tenant_id = p.tenant_id
       JOIN token_objects current_seal ON current_seal.role = 'seal' AND current_seal.is_current
     WHERE p.seal_key_id = $1 AND ($2::uuid IS NULL OR p.tenant_id > $2) ORDER BY p.tenant_id ${atMost('$3')}`,
    [former, after ?? null, size],
  );
  const stale: StalePolicy[] = [];
  for (const { tenant_id: tenantId, tenant, to_seal: sealKeyId } of rows)
    stale.push({ tenantId, tenant, sealKeyId, policy: await findPolicy({ query }, tenantId) });
  return stale;
}

/** Whether `access_policies p` has the seal that `b` is to replace. */
const IS_AS_BEFORE = 'p.tenant_id = b.tenant_id AND p.seal = b.before';
const RESEALED = lockedInOrder({
  batch:
    'unnest($1::uuid[], $2::bytea[], $3::uuid[], $4::bytea[]) AS b (tenant_id, before, seal_key_id, seal)',
  primaryKey: 'tenant_id',
  rows: 'access_policies p',
  where: IS_AS_BEFORE,
});

/**
 * Writes seals in the place of those that were verified, where the rows still have them. In a
 * transaction, with the rights of the reconciler or the owner. Writes nothing and returns false
 * when the seal key isn't current any more, or maintenance is paused and that counts.
 */
export async function rewritePolicySeals(
  query: Query,
  policies: readonly {
    readonly before: StalePolicy;
    readonly sealKeyId: SealKeyId;
    readonly seal: Buffer;
  }[],
  { evenIfPaused }: { readonly evenIfPaused: boolean },
): Promise<boolean> {
  if (!(await holdSealKeys(query, policies, evenIfPaused))) return false;
  await query(
    `WITH ${RESEALED}
     UPDATE access_policies p SET seal_key_id = b.seal_key_id, seal = b.seal FROM locked b WHERE ${IS_AS_BEFORE}`,
    [
      policies.map(({ before }) => before.tenantId),
      policies.map(({ before }) => before.policy.sealed?.seal),
      policies.map(({ sealKeyId }) => sealKeyId),
      policies.map(({ seal }) => seal),
    ],
  );
  return true;
}
