/**
 * What will end soon, as rows say it: keys, versions and tenants that are scheduled for
 * destruction, and role bindings that expire.
 *
 * Nothing here is verified: it is told to people, and nothing is decided by it.
 */
import { atMost } from '../core/batches.ts';
import type { Deadline } from '../core/transaction.ts';
import type { Store } from '../store.ts';

/** Something that ends. */
export interface Ending {
  readonly what: 'destruction' | 'binding';
  /** Its full name. */
  readonly resource: string;
  readonly at: Date;
  /** Days that are left, rounded up. */
  readonly daysLeft: number;
}

const SOON = "now() + interval '7 days'";

const SELECT_ENDINGS = `SELECT e.*, ceil(extract(epoch FROM e.at - now()) / 86400)::integer AS "daysLeft" FROM (
    SELECT 'destruction' AS what, 'tenants/' || t.name || '/keys/' || k.name AS resource, k.destroy_at AS at
      FROM keys k JOIN tenants t USING (tenant_id) WHERE k.state = 'DESTROY_SCHEDULED'
    UNION ALL
    SELECT 'destruction', 'tenants/' || t.name || '/keys/' || k.name || '/versions/' || v.version, v.destroy_at
      FROM key_versions v JOIN keys k USING (tenant_id, key_id) JOIN tenants t USING (tenant_id)
      WHERE v.state = 'DESTROY_SCHEDULED'
    UNION ALL
    SELECT 'destruction', 'tenants/' || name, shred_at FROM tenants WHERE state = 'SHRED_SCHEDULED'
    UNION ALL
    SELECT 'binding', 'tenants/' || t.name || '/roleBindings/' || b.binding_id, b.expires_at
      FROM role_bindings b JOIN tenants t USING (tenant_id) WHERE b.expires_at IS NOT NULL
  ) e WHERE e.at > now() AND e.at <= ${SOON} ORDER BY e.at ${atMost('$1')}`;

/** Returns what ends within seven days, the next first, at most so many. By the reconciler. */
export function findEndings(
  store: Pick<Store, 'reconcile'>,
  call: Deadline,
  limit: number,
): Promise<Ending[]> {
  return store.reconcile(call, (tx) =>
    tx.query<Ending & Record<string, unknown>>(SELECT_ENDINGS, [limit]),
  );
}
