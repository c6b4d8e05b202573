/**
 * The keyring's records as the contract's messages. Knows both and nothing else.
 */

import { CIPHERTEXT_OVERHEAD } from '../hsm/ciphertext.ts';
import type {
  AttributePosture,
  ObjectCondition,
  TokenObjectRole as StoredRole,
} from '../hsm/token-profile.ts';
import type { Impact } from '../keyring/destruction.ts';
import {
  formatDataKeyName,
  formatJobName,
  formatKeyName,
  formatKeyVersionName,
  formatTenantName,
  type KeyName,
  type TenantName,
} from '../keyring/names.ts';
import type { TokenStatusRecord } from '../keyring/token-status.ts';
import type { DataKeyRecord } from '../store/data-keys.ts';
import type { KeyVersionRecord, LifecycleState } from '../store/key-versions.ts';
import type { KeyRecord } from '../store/keys.ts';
import type { MaintenanceRecord } from '../store/maintenance.ts';
import type { JobFailure, JobRecord, JobState, RotationCause as StoredCause } from '../store/rewrap-jobs.ts';
import type { RotationRecord } from '../store/rotations.ts';
import type { TenantState as StoredTenantState, TenantRecord } from '../store/tenants.ts';
import type { UsageRecord } from '../store/usage.ts';
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
import type { RewrapJobState } from './generated/keyward/v1/RewrapJobState.ts';
import type { Rotation } from './generated/keyward/v1/Rotation.ts';
import type { RotationCause } from './generated/keyward/v1/RotationCause.ts';
import type { Tenant } from './generated/keyward/v1/Tenant.ts';
import type { TenantState } from './generated/keyward/v1/TenantState.ts';
import type { TokenAttributeState } from './generated/keyward/v1/TokenAttributeState.ts';
import type { TokenObjectCondition } from './generated/keyward/v1/TokenObjectCondition.ts';
import type { TokenObjectRole } from './generated/keyward/v1/TokenObjectRole.ts';
import type { TokenStatus } from './generated/keyward/v1/TokenStatus.ts';

const TENANT_STATES: Readonly<Record<StoredTenantState, TenantState>> = {
  ENABLED: 'TENANT_STATE_ENABLED',
  DISABLED: 'TENANT_STATE_DISABLED',
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
const JOB_STATES: Readonly<Record<JobState, RewrapJobState>> = {
  RUNNING: 'REWRAP_JOB_STATE_RUNNING',
  SUCCEEDED: 'REWRAP_JOB_STATE_SUCCEEDED',
  PARTIAL: 'REWRAP_JOB_STATE_PARTIAL',
  CANCELLED: 'REWRAP_JOB_STATE_CANCELLED',
  SUPERSEDED: 'REWRAP_JOB_STATE_SUPERSEDED',
};
const TOKEN_OBJECT_ROLES: Readonly<Record<StoredRole, TokenObjectRole>> = {
  root: 'TOKEN_OBJECT_ROLE_ROOT',
  seal: 'TOKEN_OBJECT_ROLE_SEAL',
  mask: 'TOKEN_OBJECT_ROLE_MASK',
  'audit-signing': 'TOKEN_OBJECT_ROLE_AUDIT_SIGNING',
};
const TOKEN_OBJECT_CONDITIONS: Readonly<Record<ObjectCondition, TokenObjectCondition>> = {
  found: 'TOKEN_OBJECT_CONDITION_FOUND',
  missing: 'TOKEN_OBJECT_CONDITION_MISSING',
  duplicated: 'TOKEN_OBJECT_CONDITION_DUPLICATED',
  mislabelled: 'TOKEN_OBJECT_CONDITION_MISLABELLED',
};
const ATTRIBUTE_STATES: Readonly<Record<AttributePosture['state'], TokenAttributeState>> = {
  enforced: 'TOKEN_ATTRIBUTE_STATE_ENFORCED',
  waived: 'TOKEN_ATTRIBUTE_STATE_WAIVED',
  unsupported: 'TOKEN_ATTRIBUTE_STATE_UNSUPPORTED',
  violated: 'TOKEN_ATTRIBUTE_STATE_VIOLATED',
};
const ALGORITHMS: Readonly<Record<number, Algorithm>> = { 1: 'ALGORITHM_HMAC_SHA512_AES_256_GCM' };

/** What erasing can't reach, said with every destruction. */
const DESTRUCTION_NOTICE =
  'Then the wrapped key material is erased from the database, and can not be brought back from it. It lives on in ' +
  'backups and write-ahead logs of the database until those are gone; whoever has one, and the HSM with the root key, ' +
  'can still unwrap it. What callers have encrypted and keep elsewhere can not be opened any more.';

export function tenantMessage({ name, tenantId, state, revision, createdAt }: TenantRecord): Tenant {
  return {
    name: formatTenantName({ tenant: name }),
    uid: tenantId,
    createTime: timestamp(createdAt),
    state: TENANT_STATES[state],
    etag: revision,
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
    destroyTime: optionalTime(record.destroyAt),
    destroyEventTime: optionalTime(record.destroyedAt),
  };
}

export function keyVersionMessage(name: KeyName, record: KeyVersionRecord, usage?: UsageRecord): KeyVersion {
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

export function maintenanceMessage({ paused, changedAt, caller }: MaintenanceRecord): Maintenance {
  return { paused, changeTime: optionalTime(changedAt), caller };
}

export function tokenStatusMessage(record: TokenStatusRecord): TokenStatus {
  const { environmentId, objects, unrecorded, ...token } = record;
  return {
    ...token,
    environmentUid: environmentId,
    profile: { ...token.profile, unsupportedAttributes: [...token.profile.unsupportedAttributes] },
    objects: objects.map(({ objectId, role, isCurrent, condition, attributes, keyVersions }) => ({
      uid: objectId,
      role: TOKEN_OBJECT_ROLES[role],
      current: isCurrent,
      condition: TOKEN_OBJECT_CONDITIONS[condition],
      attributes: attributes.map(({ attribute, required, state }) => ({
        name: attribute,
        requiredValue: required,
        state: ATTRIBUTE_STATES[state],
      })),
      keyVersions,
    })),
    unrecordedObjects: unrecorded.map(({ objectId, label }) => ({ uid: objectId, label })),
  };
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
    timeLeft: job.planned && left > 0 && rate > 0 && !job.paused ? duration((left / rate) * 1000) : null,
    failures: failures.map(({ dataKey, reason, at }) => ({ dataKey, reason, time: timestamp(at) })),
    paused: job.paused,
  };
}

function optionalTime(date: Date | null) {
  return date && timestamp(date);
}

function duration(milliseconds: number): { readonly seconds: number; readonly nanos: number } {
  const seconds = Math.floor(milliseconds / 1000);
  return { seconds, nanos: Math.min(999_999_999, Math.round((milliseconds - seconds * 1000) * 1e6)) };
}

function timestamp(date: Date): { readonly seconds: number; readonly nanos: number } {
  const milliseconds = date.getTime();
  const seconds = Math.floor(milliseconds / 1000);
  return { seconds, nanos: (milliseconds - seconds * 1000) * 1e6 };
}
