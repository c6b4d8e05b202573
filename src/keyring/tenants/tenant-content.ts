/**
 * What audit entries say of a tenant. docs/audit.md describes the members.
 */
import type { TenantId } from '../../ids.ts';
import type { Changed, MutationTx } from '../../store/core/transaction.ts';
import {
  changeTenant,
  type TenantChange,
  type TenantSealer,
} from '../../store/tenants/tenant-seals.ts';
import type { TenantRecord } from '../../store/tenants/tenants.ts';

/** Returns what an entry says of a change from one state of a tenant to another. */
export function tenantChanged(before: TenantRecord | undefined, after: TenantRecord): Changed {
  return { kind: 'tenant', before: before && contentOf(before), after: contentOf(after) };
}

/** As `changeTenant`, with what was changed in the audit entry. */
export async function changeRecorded(
  tx: MutationTx,
  tenantId: TenantId,
  sealer: TenantSealer,
  decide: (tenant: TenantRecord) => Promise<TenantChange | undefined> | TenantChange | undefined,
): Promise<TenantRecord> {
  let before: TenantRecord | undefined;
  const after = await changeTenant(tx, tenantId, sealer, (tenant) => {
    before = tenant;
    return decide(tenant);
  });
  tx.changed(tenantChanged(before, after));
  return after;
}

function contentOf(tenant: TenantRecord): object {
  const { tenantId, state, revision, dedicatedRootKey, shredAt, quotas } = tenant;
  return { tenantId, state, revision, dedicatedRootKey, shredTime: shredAt, quotas };
}
