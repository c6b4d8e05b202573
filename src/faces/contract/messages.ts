/**
 * The keyring's records as the contract's messages. Knows both and nothing else.
 */
import { CIPHERTEXT_OVERHEAD } from '../../hsm/ciphertext.ts';
import { TOKEN_COPIES } from '../../keyring/hsm-token/token-status.ts';
import type { Impact } from '../../keyring/lifecycle/destruction.ts';
import type { ShredImpact as ShredImpactRecord } from '../../keyring/tenants/shredding.ts';
import {
  formatDataKeyName,
  formatJobName,
  formatKeyName,
  formatKeyVersionName,
  formatTenantName,
  type KeyName,
  type TenantName,
} from '../../names.ts';
import type { DataKeyRecord } from '../../store/keys/data-keys.ts';
import type { LifecycleState } from '../../store/keys/key-states.ts';
import type { KeyVersionRecord } from '../../store/keys/key-versions.ts';
import type { KeyRecord } from '../../store/keys/keys.ts';
import type { UsageRecord } from '../../store/keys/usage.ts';
import type { MaintenanceRecord } from '../../store/lifecycle/maintenance-switch.ts';
import type {
  JobFailure,
  JobKind,
  JobRecord,
  JobState,
  RotationCause as StoredCause,
} from '../../store/lifecycle/rewrap-jobs.ts';
import type { RotationRecord } from '../../store/lifecycle/rotations.ts';
import type {
  TenantState as StoredTenantState,
  TenantRecord,
} from '../../store/tenants/tenants.ts';
import type { Algorithm } from './generated/keyward/v1/Algorithm.ts';
import type { DataKey } from './generated/keyward/v1/DataKey.ts';
import type { DestructionImpact } from './generated/keyward/v1/DestructionImpact.ts';
import type { Key } from './generated/keyward/v1/Key.ts';
import type { KeyState } from './generated/keyward/v1/KeyState.ts';
import type { KeyVersion } from './generated/keyward/v1/KeyVersion.ts';
import type { KeyVersionState } from './generated/keyward/v1/KeyVersionState.ts';
import type { KeyVersionUsage } from './generated/keyward/v1/KeyVersionUsage.ts';
import type { Maintenance } from './generated/keyward/v1/Maintenance.ts';
import type { RewrapJob } from './generated/keyward/v1/RewrapJob.ts';
import type { RewrapJobKind } from './generated/keyward/v1/RewrapJobKind.ts';
import type { RewrapJobState } from './generated/keyward/v1/RewrapJobState.ts';
import type { Rotation } from './generated/keyward/v1/Rotation.ts';
import type { RotationCause } from './generated/keyward/v1/RotationCause.ts';
import type { ShredImpact } from './generated/keyward/v1/ShredImpact.ts';
import type { Tenant } from './generated/keyward/v1/Tenant.ts';
import type { TenantState } from './generated/keyward/v1/TenantState.ts';
import { duration, optionalTime, timestamp } from './times.ts';

const TENANT_STATES: Readonly<Record<StoredTenantState, TenantState>> = {
  ENABLED: 'TENANT_STATE_ENABLED',
  DISABLED: 'TENANT_STATE_DISABLED',
  SHRED_SCHEDULED: 'TENANT_STATE_SHRED_SCHEDULED',
  // Nobody sees one.
  SHREDDED: 'TENANT_STATE_UNSPECIFIED',
};
const KEY_STATES: Readonly<Record<LifecycleState, KeyState>> = {
  ENABLED: 'KEY_STATE_ENABLED',
  DISABLED: 'KEY_STATE_DISABLED',
  DESTROY_SCHEDULED: 'KEY_STATE_DESTROY_SCHEDULED',
  DESTROYED: 'KEY_STATE_DESTROYED',
};
const VERSION_STATES: Readonly<Record<LifecycleState, KeyVersionState>> = {
  ENABLED: 'KEY_VERSION_STATE_ENABLED',
  DISABLED: 'KEY_VERSION_STATE_DISABLED',
  DESTROY_SCHEDULED: 'KEY_VERSION_STATE_DESTROY_SCHEDULED',
  DESTROYED: 'KEY_VERSION_STATE_DESTROYED',
};
const CAUSES: Readonly<Record<StoredCause, RotationCause>> = {
  schedule: 'ROTATION_CAUSE_SCHEDULE',
  request: 'ROTATION_CAUSE_REQUEST',
  usage: 'ROTATION_CAUSE_USAGE',
};
const JOB_KINDS: Readonly<Record<JobKind, RewrapJobKind>> = {
  'data-keys': 'REWRAP_JOB_KIND_DATA_KEYS',
  'key-versions': 'REWRAP_JOB_KIND_KEY_VERSIONS',
};
const JOB_STATES: Readonly<Record<JobState, RewrapJobState>> = {
  RUNNING: 'REWRAP_JOB_STATE_RUNNING',
  SUCCEEDED: 'REWRAP_JOB_STATE_SUCCEEDED',
  PARTIAL: 'REWRAP_JOB_STATE_PARTIAL',
  CANCELLED: 'REWRAP_JOB_STATE_CANCELLED',
  SUPERSEDED: 'REWRAP_JOB_STATE_SUPERSEDED',
};
const ALGORITHMS: Readonly<Record<number, Algorithm>> = { 1: 'ALGORITHM_HMAC_SHA512_AES_256_GCM' };

/** What erasing can't reach, said with every destruction. */
const DESTRUCTION_NOTICE =
  'Then the wrapped key material is erased from the database and cannot be recovered from it. It remains in ' +
  'backups and write-ahead logs of the database until those are gone; one of these and the HSM with the root key ' +
  'are enough to unwrap it. Ciphertexts that callers keep elsewhere can no longer be decrypted.';

export function tenantMessage(record: TenantRecord): Tenant {
  const { name, tenantId, state, revision, createdAt, dedicatedRootKey, shredAt, quotas } = record;
  return {
    name: formatTenantName({ tenant: name }),
    uid: tenantId,
    createTime: timestamp(createdAt),
    state: TENANT_STATES[state],
    etag: revision,
    dedicatedRootKey,
    shredTime: optionalTime(shredAt),
    quotas: {
      callsPerSecond: quotas.callsPerSecond ?? 0,
      keys: quotas.keys ?? 0,
      storedDataKeys: quotas.storedDataKeys ?? 0,
    },
  };
}

export function keyMessage({ tenant }: { readonly tenant: string }, record: KeyRecord): Key {
  const name = { tenant, key: record.name };
  return {
    name: formatKeyName(name),
    uid: record.keyId,
    primary: keyVersionMessage(name, record.primary),
    createTime: timestamp(record.createdAt),
    state: KEY_STATES[record.state],
    description: record.description,
    labels: record.labels,
    etag: record.revision,
    rotationPeriod:
      record.rotationPeriodSeconds === null ? null : duration(record.rotationPeriodSeconds * 1000),
    nextRotationTime: optionalTime(record.nextRotationAt),
    rotationUsageLimit: record.rotationUsageLimit ?? 0,
    maintenancePaused: record.maintenancePaused,
    epochMaxMessages: record.derivationEpoch?.maxMessages ?? 0,
    epochMaxAge: record.derivationEpoch && duration(record.derivationEpoch.maxAgeSeconds * 1000),
    destroyTime: optionalTime(record.destroyAt),
    destroyEventTime: optionalTime(record.destroyedAt),
  };
}

export function keyVersionMessage(
  name: KeyName,
  record: KeyVersionRecord,
  usage?: UsageRecord,
): KeyVersion {
  return {
    name: formatKeyVersionName(name, record.version),
    state: VERSION_STATES[record.state],
    algorithm: ALGORITHMS[record.algorithm] ?? 'ALGORITHM_UNSPECIFIED',
    createTime: timestamp(record.createdAt),
    etag: record.revision,
    destroyTime: optionalTime(record.destroyAt),
    destroyEventTime: optionalTime(record.destroyedAt),
    usage: usage === undefined ? null : usageMessage(usage),
  };
}

function usageMessage(usage: UsageRecord): KeyVersionUsage {
  return {
    encryptOperations: usage.encryptOperations,
    lastEncryptTime: optionalTime(usage.lastEncryptAt),
    decryptOperations: usage.decryptOperations,
    lastDecryptTime: optionalTime(usage.lastDecryptAt),
    completeTime: optionalTime(usage.completeAt),
  };
}

export function impactMessage(impact: Impact): DestructionImpact {
  return {
    keyVersions: impact.keyVersions,
    storedDataKeys: impact.storedDataKeys,
    usage: usageMessage(impact.usage),
    destroyTime: timestamp(impact.destroyAt),
    etag: impact.etag,
    notice: DESTRUCTION_NOTICE,
  };
}

/** What shredding can't reach, said each time. */
const SHRED_NOTICES = {
  own:
    'Then all of its wrapped key material is erased from the database. Backups and write-ahead logs still have it, and it ' +
    'is useless once all its root keys are destroyed in every copy of the token. An operator destroys them by ' +
    '`keyward-server token shred` after the scheduled time. Keys that callers hold in memory are not affected.',
  shared:
    'This tenant shares its root key with others, so that key cannot be destroyed. Its wrapped key material is ' +
    'erased from the database. Backups and write-ahead logs still have it, and one of these and the HSM are enough to ' +
    'unwrap it until they are gone, or the shared root key is rotated and the old one destroyed.',
} as const;
export function shredImpactMessage(impact: ShredImpactRecord): ShredImpact {
  const ownsRoots = impact.rootKeys.length > 0;
  return {
    keys: impact.keys,
    keyVersions: impact.keyVersions,
    storedDataKeys: impact.storedDataKeys,
    lastUseTime: optionalTime(impact.lastUsedAt),
    shredTime: timestamp(impact.shredAt),
    etag: impact.etag,
    rootKeys: [...impact.rootKeys],
    notice: SHRED_NOTICES[ownsRoots ? 'own' : 'shared'],
    checklist: ownsRoots ? [...TOKEN_COPIES] : [],
  };
}

export function maintenanceMessage({ paused, changedAt, caller }: MaintenanceRecord): Maintenance {
  return { paused, changeTime: optionalTime(changedAt), caller };
}

export function dataKeyMessage(name: KeyName, record: DataKeyRecord): DataKey {
  return {
    name: formatDataKeyName(name, record.name),
    uid: record.dataKeyId,
    keyVersion: formatKeyVersionName(name, record.version),
    length: record.ciphertext.length - CIPHERTEXT_OVERHEAD,
    createTime: timestamp(record.createdAt),
    rewrapTime: optionalTime(record.rewrappedAt),
    // A data key never changes but by being deleted and made anew.
    etag: record.dataKeyId,
  };
}

export function rotationMessage(name: KeyName, record: RotationRecord): Rotation {
  return {
    fromVersion: formatKeyVersionName(name, record.fromVersion),
    toVersion: formatKeyVersionName(name, record.toVersion),
    rotateTime: timestamp(record.rotatedAt),
    cause: CAUSES[record.cause],
    caller: record.caller,
    duration: duration(record.durationMs),
    rewrapJob: formatJobName(name, record.jobId),
    rewrapState: JOB_STATES[record.rewrapState],
    rewrapped: record.rewrapped,
    left: record.left,
    failed: record.failed,
  };
}

/** `rate` in data keys a second, where it is known better than over the whole job. */
export function jobMessage(
  tenant: TenantName,
  job: JobRecord,
  failures: readonly JobFailure[] = [],
  rate = job.elapsedMs > 0 ? (job.done / job.elapsedMs) * 1000 : 0,
): RewrapJob {
  const left = job.state === 'RUNNING' ? job.total - job.done - job.failed : 0;
  return {
    name: formatJobName(tenant, job.jobId),
    scope: job.scope,
    state: JOB_STATES[job.state],
    cause: CAUSES[job.cause],
    caller: job.caller,
    createTime: timestamp(job.createdAt),
    endTime: optionalTime(job.endedAt),
    total: job.total,
    totalIsFinal: job.planned || job.state !== 'RUNNING',
    done: job.done,
    left,
    failed: job.failed,
    rate,
    timeLeft:
      job.planned && left > 0 && rate > 0 && !job.paused ? duration((left / rate) * 1000) : null,
    failures: failures.map(({ resource, reason, at }) => ({
      resource,
      reason,
      time: timestamp(at),
    })),
    paused: job.paused,
    kind: JOB_KINDS[job.kind],
  };
}
