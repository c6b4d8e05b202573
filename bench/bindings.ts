/**
 * Ten thousand role bindings in one tenant, made past the service and sealed once, as they would be
 * had it made them.
 *
 * The caller's own are the last that are found: by the last of his groups, after bindings for other
 * keys. Knows the database's tables.
 */
import type pg from 'pg';
import { monotonicNow } from '../src/call.ts';
import { policyContent } from '../src/hsm/policy-record.ts';
import { RECORD } from '../src/hsm/record-seal.ts';
import type { SealKeyId, TenantId } from '../src/ids.ts';
import { findPolicy } from '../src/store/access/policies.ts';
import { Store } from '../src/store/store.ts';
import type { Environment } from './environment.ts';
import { withAgents } from './make-keys.ts';

export const BINDINGS = 10_000;
const PATIENCE_MS = 60_000;
const RELEASE = '0.2.0';

/** For whom the bindings are that a measured call is decided by. */
export interface MeasuredCaller {
  readonly principal: string;
  readonly groups: readonly string[];
}

/**
 * Replaces the tenant's policy. `condition` is an entry of the encryption context that the calls
 * bring.
 */
export async function makeBindings(
  environment: Environment,
  owner: pg.Client,
  tenant: string,
  { principal, groups }: MeasuredCaller,
  [contextKey, value]: readonly [string, string],
): Promise<void> {
  const { rows } = await owner.query<{ tenant_id: TenantId }>(
    'SELECT tenant_id FROM tenants WHERE name = $1',
    [tenant],
  );
  const tenantId = rows[0]?.tenant_id;
  if (tenantId === undefined) throw new Error(`there is no tenant ${tenant}`);
  const others = groups
    .slice(0, -1)
    .map((group) => ['group', group, 'roles/encrypter', 'other-*'] as const);
  const own = [
    ['principal', principal, 'roles/keyViewer', ''],
    ['principal', principal, 'roles/encrypter', 'other-*'],
    ...others,
    ['group', groups.at(-1) ?? '', 'roles/encrypter', ''],
  ] as const;
  const strangers = Array.from({ length: BINDINGS - own.length }, (_, index) => {
    const member = `spiffe://bench.test/service-${index >> 1}`;
    return [
      'principal',
      member,
      index % 2 === 0 ? 'roles/encrypter' : 'roles/decrypter',
      'fir*',
    ] as const;
  });
  const all = [...own, ...strangers];
  const condition = [{ contextKey, requirement: { kind: 'equals', value } }];
  await owner.query('DELETE FROM role_bindings WHERE tenant_id = $1', [tenantId]);
  await owner.query(
    `INSERT INTO role_bindings (tenant_id, binding_id, member_kind, member, role,
       key_pattern, all_tenants, conditions,
       overrides_separation, description, created_at, creator)
     SELECT $1, 'binding-' || n, kind, member, role, pattern, false,
       CASE WHEN n = $6 THEN $7::jsonb ELSE '[]' END,
       false, '', date_trunc('milliseconds', now()), 'bench'
     FROM unnest($2::text[], $3::text[], $4::text[], $5::text[])
       WITH ORDINALITY AS b (kind, member, role, pattern, n)`,
    [
      tenantId,
      ...[0, 1, 2, 3].map((column) => all.map((each) => each[column])),
      own.length,
      JSON.stringify(condition),
    ],
  );
  await seal(environment, owner, tenantId);
}

async function seal(environment: Environment, owner: pg.Client, tenantId: TenantId): Promise<void> {
  const { variables } = environment;
  const url = variables['DATABASE_URL'] ?? '';
  const store = await Store.open({
    url,
    poolSize: 1,
    waitMs: 300,
    release: RELEASE,
    onError: () => {},
  });
  const deadline = monotonicNow() + PATIENCE_MS;
  try {
    const policy = await store.read({ deadline }, tenantId, (tx) => findPolicy(tx, tenantId));
    const revision = (policy.sealed?.revision ?? 0n) + 1n;
    const contents = [policyContent(tenantId, revision, policy)];
    await withAgents(environment, async (agents, { sealKeyId }) => {
      const request = { sealKeyId: sealKeyId as SealKeyId, kind: RECORD.policy, contents };
      const { seals } = await agents.call('sealRecords', request, deadline);
      await owner.query(
        `INSERT INTO access_policies (tenant_id, revision, seal_key_id, seal)
         VALUES ($1, $2, $3, $4)
         ON CONFLICT (tenant_id) DO UPDATE SET revision = $2, seal_key_id = $3, seal = $4`,
        [tenantId, revision.toString(), sealKeyId, seals[0]],
      );
    });
  } finally {
    await store.close();
  }
}
