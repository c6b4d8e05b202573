/**
 * Tenants, keys and key versions off the wire, in friendly types; and what destroying or shredding
 * takes with it.
 *
 * Its invariant: an answer that isn't whole is refused, and what is newer than this client is
 * `UNSPECIFIED`, never an error. Knows nothing of methods.
 */
import type { Algorithm__Output } from './generated/keyward/v1/Algorithm.ts';
import type { DestructionImpact__Output } from './generated/keyward/v1/DestructionImpact.ts';
import type { Key__Output } from './generated/keyward/v1/Key.ts';
import type { KeyState__Output } from './generated/keyward/v1/KeyState.ts';
import type { KeyVersion__Output } from './generated/keyward/v1/KeyVersion.ts';
import type { KeyVersionState__Output } from './generated/keyward/v1/KeyVersionState.ts';
import type { KeyVersionUsage__Output } from './generated/keyward/v1/KeyVersionUsage.ts';
import type { Maintenance__Output } from './generated/keyward/v1/Maintenance.ts';
import type { ShredImpact__Output } from './generated/keyward/v1/ShredImpact.ts';
import type { Tenant__Output } from './generated/keyward/v1/Tenant.ts';
import type { TenantState__Output } from './generated/keyward/v1/TenantState.ts';
import type * as m from './messages.ts';
import { date, dateIfAny, secondsIfAny } from './times.ts';

const TENANT_STATES = {
  TENANT_STATE_UNSPECIFIED: 'UNSPECIFIED',
  TENANT_STATE_ENABLED: 'ENABLED',
  TENANT_STATE_DISABLED: 'DISABLED',
  TENANT_STATE_SHRED_SCHEDULED: 'SHRED_SCHEDULED',
} as const satisfies Record<TenantState__Output, m.TenantState>;

const KEY_STATES = {
  KEY_STATE_UNSPECIFIED: 'UNSPECIFIED',
  KEY_STATE_ENABLED: 'ENABLED',
  KEY_STATE_DISABLED: 'DISABLED',
  KEY_STATE_DESTROY_SCHEDULED: 'DESTROY_SCHEDULED',
  KEY_STATE_DESTROYED: 'DESTROYED',
} as const satisfies Record<KeyState__Output, m.KeyState>;

const KEY_VERSION_STATES = {
  KEY_VERSION_STATE_UNSPECIFIED: 'UNSPECIFIED',
  KEY_VERSION_STATE_ENABLED: 'ENABLED',
  KEY_VERSION_STATE_DISABLED: 'DISABLED',
  KEY_VERSION_STATE_DESTROY_SCHEDULED: 'DESTROY_SCHEDULED',
  KEY_VERSION_STATE_DESTROYED: 'DESTROYED',
} as const satisfies Record<KeyVersionState__Output, m.KeyVersionState>;

const ALGORITHMS = {
  ALGORITHM_UNSPECIFIED: 'UNSPECIFIED',
  ALGORITHM_HMAC_SHA512_AES_256_GCM: 'HMAC_SHA512_AES_256_GCM',
} as const satisfies Record<Algorithm__Output, m.Algorithm>;

// A value that the proto files here don't have yet arrives as its number, whatever the types say:
// hence `??` below.

export function tenant(wire: Tenant__Output | null): m.Tenant {
  if (wire === null) throw new Error('the answer lacks the tenant');
  return {
    name: wire.name,
    uid: wire.uid,
    createTime: date(wire.createTime),
    state: TENANT_STATES[wire.state] ?? 'UNSPECIFIED',
    etag: wire.etag,
    dedicatedRootKey: wire.dedicatedRootKey,
    shredTime: dateIfAny(wire.shredTime),
    // A service that is older than quotas sends none.
    quotas: {
      callsPerSecond: wire.quotas?.callsPerSecond ?? 0,
      keys: wire.quotas?.keys ?? 0,
      storedDataKeys: wire.quotas?.storedDataKeys ?? 0,
    },
  };
}

export function maintenance({ paused, changeTime, caller }: Maintenance__Output): m.Maintenance {
  return { paused, changeTime: dateIfAny(changeTime), caller };
}

export function key(wire: Key__Output | null): m.Key {
  if (wire === null) throw new Error('the answer lacks the key');
  if (wire.primary === null) throw new Error('the answer lacks the primary version');
  return {
    name: wire.name,
    uid: wire.uid,
    primary: keyVersion(wire.primary),
    createTime: date(wire.createTime),
    state: KEY_STATES[wire.state] ?? 'UNSPECIFIED',
    description: wire.description,
    labels: wire.labels,
    etag: wire.etag,
    rotationPeriodSeconds: secondsIfAny(wire.rotationPeriod),
    nextRotationTime: dateIfAny(wire.nextRotationTime),
    rotationUsageLimit: wire.rotationUsageLimit,
    maintenancePaused: wire.maintenancePaused,
    destroyTime: dateIfAny(wire.destroyTime),
    destroyEventTime: dateIfAny(wire.destroyEventTime),
  };
}

export function keyVersion(wire: KeyVersion__Output | null): m.KeyVersion {
  if (wire === null) throw new Error('the answer lacks the version');
  return {
    name: wire.name,
    state: KEY_VERSION_STATES[wire.state] ?? 'UNSPECIFIED',
    algorithm: ALGORITHMS[wire.algorithm] ?? 'UNSPECIFIED',
    createTime: date(wire.createTime),
    etag: wire.etag,
    destroyTime: dateIfAny(wire.destroyTime),
    destroyEventTime: dateIfAny(wire.destroyEventTime),
    usage: wire.usage === null ? undefined : usage(wire.usage),
  };
}

function usage(wire: KeyVersionUsage__Output): m.KeyVersionUsage {
  return {
    encryptOperations: wire.encryptOperations,
    lastEncryptTime: dateIfAny(wire.lastEncryptTime),
    decryptOperations: wire.decryptOperations,
    lastDecryptTime: dateIfAny(wire.lastDecryptTime),
    completeTime: dateIfAny(wire.completeTime),
  };
}

export function impact(wire: DestructionImpact__Output | null): m.DestructionImpact {
  // Nobody should decide on an answer that doesn't say how the versions were used.
  if (wire === null || wire.usage === null) throw new Error('the answer lacks what would be lost');
  return {
    keyVersions: wire.keyVersions,
    storedDataKeys: wire.storedDataKeys,
    usage: usage(wire.usage),
    destroyTime: date(wire.destroyTime),
    etag: wire.etag,
    notice: wire.notice,
  };
}

export function shredImpact(wire: ShredImpact__Output | null): m.ShredImpact {
  if (wire === null) throw new Error('the answer lacks what would be lost');
  return { ...wire, lastUseTime: dateIfAny(wire.lastUseTime), shredTime: date(wire.shredTime) };
}
