/**
 * Requests about keys that are more than a name, to the wire.
 *
 * Its invariant: an update's mask names exactly the fields that the caller gave, unless the caller
 * brings a mask. Knows nothing of methods.
 */
import { duration, flag, requestId, strings, text, timestamp, whole } from './fields.ts';
import type * as m from './messages.ts';

export function createKeyRequest(r: m.CreateKeyRequest) {
  return {
    parent: text('parent', r.parent),
    keyId: text('keyId', r.keyId),
    description: text('description', r.description ?? ''),
    labels: strings('labels', r.labels),
    ...schedule('', r),
    ...requestId(r.requestId),
  };
}

/**
 * A schedule's part of a request; null as absent. `prefix` says where the fields are, for a
 * TypeError.
 */
function schedule(
  prefix: string,
  r: Pick<
    m.UpdateKeyRequest['key'],
    'rotationPeriodSeconds' | 'nextRotationTime' | 'rotationUsageLimit'
  >,
) {
  const { rotationPeriodSeconds: period, nextRotationTime: next, rotationUsageLimit: limit } = r;
  return {
    rotationPeriod: period == null ? null : duration(`${prefix}rotationPeriodSeconds`, period),
    nextRotationTime: next == null ? null : timestamp(`${prefix}nextRotationTime`, next),
    rotationUsageLimit: whole(`${prefix}rotationUsageLimit`, limit ?? 0),
  };
}

/** What may be updated, and its name in a mask. */
const MASK_PATHS = {
  description: 'description',
  labels: 'labels',
  rotationPeriodSeconds: 'rotation_period',
  nextRotationTime: 'next_rotation_time',
  rotationUsageLimit: 'rotation_usage_limit',
  maintenancePaused: 'maintenance_paused',
} as const satisfies Record<Exclude<keyof m.UpdateKeyRequest['key'], 'name' | 'etag'>, string>;

export function updateKeyRequest(r: m.UpdateKeyRequest) {
  const { name, etag, description, labels, maintenancePaused } = r.key;
  const fields = Object.keys(MASK_PATHS) as (keyof typeof MASK_PATHS)[];
  const given = fields
    .filter((field) => r.key[field] !== undefined)
    .map((field) => MASK_PATHS[field]);
  return {
    key: {
      name: text('key.name', name),
      etag: text('key.etag', etag ?? ''),
      description: text('key.description', description ?? ''),
      labels: strings('key.labels', labels),
      ...schedule('key.', r.key),
      maintenancePaused: flag('key.maintenancePaused', maintenancePaused ?? false),
    },
    updateMask: {
      paths: (r.updateMask ?? given).map((path) => text('a path of updateMask', path)),
    },
    ...requestId(r.requestId),
  };
}
