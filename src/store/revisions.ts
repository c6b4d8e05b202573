/**
 * Revisions of what replicas remember, asked for again: of many tenants, policies, keys and
 * approval rules at once, and of canaries.
 *
 * Nothing here is verified: a revision tells whether what is remembered is to be read again, and
 * what is read then is verified.
 */
import type { TenantId } from '../ids.ts';
import type { Deadline } from './core/transaction.ts';
import type { Store } from './store.ts';

/** What is remembered, as the feed of changes names it. */
export interface Remembered {
  readonly kind: 'tenant' | 'access' | 'key' | 'canaries' | 'approvalRules';
  readonly tenantId: TenantId;
  /** The UUID of the key; of the tenant for others, which is `system` for canaries. */
  readonly subjectId: string;
  readonly revision: bigint;
  /** What the cache has in its place. */
  readonly entry: object;
}

const SELECT_REVISIONS = `SELECT 'tenant/' || tenant_id AS subject, revision::text FROM tenants
    WHERE tenant_id = ANY ($1::uuid[])
  UNION ALL SELECT 'access/' || tenant_id, revision::text FROM access_policies
    WHERE tenant_id = ANY ($2::uuid[])
  UNION ALL SELECT 'key/' || k.key_id, k.revision::text
    FROM unnest($3::uuid[], $4::uuid[]) AS b (tenant_id, key_id)
      JOIN keys k ON k.tenant_id = b.tenant_id AND k.key_id = b.key_id
  UNION ALL SELECT 'canaries/' || tenant_id, revision::text FROM canary_seals
  UNION ALL SELECT 'approvalRules/' || tenant_id, revision::text FROM approval_rules
    WHERE tenant_id = ANY ($5::uuid[])`;

/** Returns the name of it in what {@link findRevisions} returns. */
export function subjectOf({ kind, subjectId }: Pick<Remembered, 'kind' | 'subjectId'>): string {
  return `${kind}/${subjectId}`;
}

/**
 * Returns the revision that the database has of each; none of what isn't there. A tenant without a
 * policy or approval rules is remembered as one with revision 0, and has that here.
 */
export async function findRevisions(
  store: Pick<Store, 'reconcile'>,
  call: Deadline,
  remembered: readonly Remembered[],
): Promise<ReadonlyMap<string, bigint>> {
  const of = (kind: Remembered['kind']) => remembered.filter((each) => each.kind === kind);
  const keys = of('key');
  const rows = await store.reconcile(call, (tx) =>
    tx.query<{ subject: string; revision: string }>(SELECT_REVISIONS, [
      of('tenant').map(({ subjectId }) => subjectId),
      of('access').map(({ subjectId }) => subjectId),
      keys.map(({ tenantId }) => tenantId),
      keys.map(({ subjectId }) => subjectId),
      of('approvalRules').map(({ subjectId }) => subjectId),
    ]),
  );
  return new Map([
    ...[...of('access'), ...of('approvalRules')].map((each) => [subjectOf(each), 0n] as const),
    ...rows.map(({ subject, revision }) => [subject, BigInt(revision)] as const),
  ]);
}
