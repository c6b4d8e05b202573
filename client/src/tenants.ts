/**
 * Requests about tenants that are more than a name, to the wire.
 *
 * Its invariant: an update's mask names exactly the fields that the caller gave, unless the caller
 * brings a mask. Knows nothing of methods.
 */
import { flag, requestId, text, whole } from './fields.ts';
import type * as m from './messages.ts';

export function createTenantRequest(r: m.CreateTenantRequest) {
  return {
    tenantId: text('tenantId', r.tenantId),
    dedicatedRootKey: flag('dedicatedRootKey', r.dedicatedRootKey ?? false),
    ...requestId(r.requestId),
  };
}

/** What may be updated, and its name in a mask. */
const MASK_PATHS = {
  callsPerSecond: 'quotas.calls_per_second',
  keys: 'quotas.keys',
  storedDataKeys: 'quotas.stored_data_keys',
} as const satisfies Record<keyof m.TenantQuotas, string>;

export function updateTenantRequest(r: m.UpdateTenantRequest) {
  const { name, etag, quotas = {} } = r.tenant;
  const fields = Object.keys(MASK_PATHS) as (keyof typeof MASK_PATHS)[];
  const given = fields
    .filter((field) => quotas[field] !== undefined)
    .map((field) => MASK_PATHS[field]);
  return {
    tenant: {
      name: text('tenant.name', name),
      etag: text('tenant.etag', etag ?? ''),
      quotas: {
        callsPerSecond: whole('tenant.quotas.callsPerSecond', quotas.callsPerSecond ?? 0),
        keys: whole('tenant.quotas.keys', quotas.keys ?? 0),
        storedDataKeys: whole('tenant.quotas.storedDataKeys', quotas.storedDataKeys ?? 0),
      },
    },
    updateMask: {
      paths: (r.updateMask ?? given).map((path) => text('a path of updateMask', path)),
    },
    ...requestId(r.requestId),
  };
}
