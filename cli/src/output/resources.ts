/**
 * Describes the kinds of things that commands print: the columns of each, in words for people.
 */
import type {
  AuditEntry,
  AuditEntryContent,
  Caller,
  Canary,
  ContextCondition,
  DataKey,
  Key,
  KeyVersion,
  Maintenance,
  RewrapFailure,
  RewrapJob,
  Role,
  RoleBinding,
  Rotation,
  Suspension,
  Tenant,
  TenantQuotas,
  TokenKey,
  TokenObject,
  UnrecordedTokenObject,
} from 'keyward-client';
import { writeDuration, writeRoughly } from '../durations.ts';
import { lastPart } from '../names.ts';
import type { Settings } from '../profiles.ts';
import { type Columns, wide } from './output.ts';

/** A tenant's columns. */
export const TENANT: Columns<Tenant> = {
  NAME: ({ name }) => name,
  STATE: ({ state, shredTime }) => stateAt(state, shredTime),
  UID: wide(({ uid }) => uid),
  CREATED: wide(({ createTime }) => createTime.toISOString()),
  'ROOT KEY': ({ dedicatedRootKey }) => (dedicatedRootKey ? 'dedicated' : 'shared'),
  QUOTAS: ({ quotas }) => quotasOf(quotas),
};

/** Those that it has of its own. */
function quotasOf({ callsPerSecond, keys, storedDataKeys }: TenantQuotas): string {
  const own = Object.entries({ 'calls/s': callsPerSecond, keys, 'data keys': storedDataKeys })
    .filter(([, quota]) => quota !== 0)
    .map(([name, quota]) => `${quota} ${name}`);
  return own.length === 0 ? 'default' : own.join(', ');
}

/** Lists the columns of automatic maintenance. */
export const MAINTENANCE: Columns<Maintenance> = {
  MAINTENANCE: ({ paused }) => (paused ? 'PAUSED' : 'ON'),
  SINCE: ({ changeTime }) => changeTime?.toISOString() ?? 'never changed',
  CALLER: ({ caller }) => caller,
};

/**
 * What the table shows of a token's objects, those that the service's database doesn't know among
 * them.
 */
export const TOKEN_OBJECT: Columns<TokenObject | UnrecordedTokenObject> = {
  ROLE: (object) => ('role' in object ? object.role : 'NOT RECORDED'),
  UID: ({ uid }) => uid,
  TENANT: (object) => ('role' in object ? object.tenant : ''),
  CURRENT: (object) => ('role' in object ? (object.current ? 'yes' : 'no') : ''),
  CONDITION: (object) => ('role' in object ? object.condition : `labelled ${object.label}`),
  ATTRIBUTES: (object) => ('role' in object ? attributesOf(object) : ''),
  'KEY VERSIONS': (object) =>
    'role' in object && object.role === 'ROOT' ? String(object.keyVersions) : '',
};

/** The columns of what an operator has to do about a token's objects. */
export const TO_DO: Columns<TokenObject> = {
  UID: ({ uid }) => uid,
  'TO DO': ({ toDo }) => toDo,
};

/** A root or seal key's columns. */
export const TOKEN_KEY: Columns<TokenKey> = {
  UID: ({ name }) => lastPart(name),
  ROLE: ({ role }) => role,
  STATE: ({ state }) => state,
  CREATED: ({ createTime }) => createTime.toISOString(),
  'CURRENT SINCE': ({ activateTime }) => ifAny(activateTime),
  RETIRED: wide(({ retireTime }) => ifAny(retireTime)),
  DESTROYED: wide(({ destroyTime }) => ifAny(destroyTime)),
  'KEY VERSIONS': ({ keyVersions }) => String(keyVersions),
  'SEALED RECORDS': wide(({ sealedRecords }) => String(sealedRecords)),
  CALLER: wide(({ caller }) => caller),
};

/** How many attributes are as they must be, and which aren't. */
function attributesOf({ attributes }: TokenObject): string {
  const enforced = attributes.filter(({ state }) => state === 'ENFORCED').length;
  const others = attributes.filter(({ state }) => state !== 'ENFORCED');
  return [`${enforced} ENFORCED`, ...others.map(({ name, state }) => `${name} ${state}`)].join(
    ', ',
  );
}

/**
 * A key's columns; the primary's own state is shown where it is what keeps the key from encrypting.
 */
export const KEY: Columns<Key> = {
  NAME: ({ name }) => name,
  PRIMARY: ({ primary: { name, state } }) =>
    state === 'ENABLED' ? lastPart(name) : `${lastPart(name)} (${state})`,
  STATE: stateOf,
  UID: wide(({ uid }) => uid),
  CREATED: wide(({ createTime }) => createTime.toISOString()),
  'NEXT ROTATION': ({ nextRotationTime, maintenancePaused }) =>
    `${whenOf(nextRotationTime)}${maintenancePaused ? ' (PAUSED)' : ''}`,
  'EPOCH MESSAGES': wide(epochMessagesOf),
  'EPOCH AGE': wide(epochAgeOf),
  LABELS: ({ labels }) =>
    Object.entries(labels)
      .map(([name, value]) => `${name}=${value}`)
      .sort()
      .join(','),
  DESCRIPTION: ({ description }) => description,
};

/** A key's schedule as columns. */
export const SCHEDULE: Columns<Key> = {
  NAME: ({ name }) => name,
  STATE: stateOf,
  PERIOD: ({ rotationPeriodSeconds: seconds }) =>
    seconds === undefined ? 'none' : writeDuration(seconds),
  'NEXT ROTATION': ({ nextRotationTime }) => whenOf(nextRotationTime),
  'USAGE LIMIT': ({ rotationUsageLimit: limit }) => (limit === 0 ? 'none' : String(limit)),
  MAINTENANCE: ({ maintenancePaused }) => (maintenancePaused ? 'PAUSED' : 'ON'),
};

/** A key's derivation epochs as columns. */
export const EPOCH: Columns<Key> = {
  NAME: ({ name }) => name,
  STATE: stateOf,
  'EPOCH MESSAGES': epochMessagesOf,
  'EPOCH AGE': epochAgeOf,
};

function epochMessagesOf({ epochMaxMessages }: Key): string {
  return epochMaxMessages === 0 ? 'none' : String(epochMaxMessages);
}

function epochAgeOf({ epochMaxAgeSeconds: seconds }: Key): string {
  return seconds === undefined ? 'none' : writeDuration(seconds);
}

/** A key version's columns. */
export const KEY_VERSION: Columns<KeyVersion> = {
  NAME: ({ name }) => name,
  STATE: stateOf,
  ALGORITHM: ({ algorithm }) => algorithm,
  CREATED: ({ createTime }) => createTime.toISOString(),
};

/** A key version's columns, with how it was used. */
export const KEY_VERSION_USE: Columns<KeyVersion> = {
  ...KEY_VERSION,
  ENCRYPTIONS: ({ usage }) => String(usage?.encryptOperations ?? ''),
  'LAST ENCRYPTION': ({ usage }) => (usage ? whenOf(usage.lastEncryptTime) : ''),
  DECRYPTIONS: ({ usage }) => String(usage?.decryptOperations ?? ''),
  'LAST DECRYPTION': ({ usage }) => (usage ? whenOf(usage.lastDecryptTime) : ''),
};

/** A stored data key's columns. */
export const DATA_KEY: Columns<DataKey> = {
  NAME: ({ name }) => name,
  VERSION: ({ keyVersion }) => lastPart(keyVersion),
  LENGTH: ({ length }) => String(length),
  UID: wide(({ uid }) => uid),
  CREATED: ({ createTime }) => createTime.toISOString(),
  'RE-WRAPPED': ({ rewrapTime }) => whenOf(rewrapTime),
};

/** A rotation's columns, with what its job has done. */
export const ROTATION: Columns<Rotation> = {
  ROTATED: ({ rotateTime }) => rotateTime.toISOString(),
  FROM: ({ fromVersion }) => lastPart(fromVersion),
  TO: ({ toVersion }) => lastPart(toVersion),
  CAUSE: ({ cause }) => cause,
  TOOK: wide(({ durationSeconds: took }) =>
    took === undefined ? '' : `${Math.round(took * 1000)}ms`,
  ),
  'RE-WRAP': ({ rewrapState }) => rewrapState,
  DONE: ({ rewrapped }) => String(rewrapped),
  LEFT: ({ left }) => String(left),
  FAILED: ({ failed }) => String(failed),
  JOB: ({ rewrapJob }) => lastPart(rewrapJob),
  CALLER: wide(({ caller }) => caller),
};

/** A re-wrap job's columns. */
export const JOB: Columns<RewrapJob> = {
  NAME: ({ name }) => name,
  SCOPE: ({ scope }) => scope,
  KIND: ({ kind }) => kind,
  STATE: ({ state, paused }) => (paused && state === 'RUNNING' ? `${state} (PAUSED)` : state),
  CAUSE: wide(({ cause }) => cause),
  TOTAL: ({ total, totalIsFinal }) => `${total}${totalIsFinal ? '' : '+'}`,
  DONE: ({ done }) => String(done),
  LEFT: ({ left }) => String(left),
  FAILED: ({ failed }) => String(failed),
  STARTED: ({ createTime }) => createTime.toISOString(),
  ENDED: ({ endTime }) => ifAny(endTime),
  CALLER: wide(({ caller }) => caller),
};

/** The columns of what a job could not open. */
export const FAILURE: Columns<RewrapFailure> = {
  RESOURCE: ({ resource }) => resource,
  REASON: ({ reason }) => reason,
  TIME: ({ time }) => time.toISOString(),
};

/** A role binding's columns. */
export const ROLE_BINDING: Columns<RoleBinding> = {
  NAME: ({ name }) => name,
  MEMBER: ({ principal, group }) =>
    principal ?? (group === undefined ? 'UNSPECIFIED' : `group ${group}`),
  ROLE: ({ role }) => role,
  KEYS: ({ keyPattern }) => keyPattern || 'everything',
  TENANTS: ({ allTenants }) => (allTenants ? 'ALL' : 'this'),
  CONTEXT: ({ conditions }) => conditions.map(conditionOf).join(' ') || 'any',
  EXPIRES: ({ expireTime }) => whenOf(expireTime),
  DUTIES: ({ overrideSeparationOfDuties: overridden }) =>
    overridden ? 'NOT SEPARATED' : 'separated',
  CREATED: wide(({ createTime }) => createTime.toISOString()),
  CREATOR: wide(({ creator }) => creator),
  DESCRIPTION: ({ description }) => description,
};

/** A condition as `access bind` takes it, but for what keeps values apart. */
function conditionOf({ contextKey, equals, oneOf, claim }: ContextCondition): string {
  if (equals !== undefined) return `${contextKey}=${equals}`;
  if (oneOf !== undefined) return `${contextKey}=one of ${oneOf.join(',')}`;
  if (claim === undefined) return `${contextKey}=UNSPECIFIED`;
  const path = claim.some((name) => name.includes('.')) ? JSON.stringify(claim) : claim.join('.');
  return `${contextKey}=claim ${path}`;
}

/** A role's columns. */
export const ROLE: Columns<Role> = {
  NAME: ({ name }) => name,
  CREATED: wide(({ createTime }) => createTime?.toISOString() ?? 'predefined'),
  CREATOR: wide(({ creator }) => creator),
  DESCRIPTION: ({ description }) => description,
  PERMISSIONS: ({ permissions }) => permissions.join(', '),
};

/** The columns of a canary. */
export const CANARY: Columns<Canary> = {
  NAME: ({ name }) => name,
  KIND: ({ kind }) => (kind === 'UNSPECIFIED' ? 'ITS KEY IS DESTROYED' : kind),
  KEY: ({ key }) => key,
  'DATA KEY': ({ dataKey }) => dataKey,
  SUSPENDS: ({ suspendsCaller }) => (suspendsCaller ? 'yes' : 'no'),
  CREATED: wide(({ createTime }) => createTime?.toISOString() ?? ''),
  CREATOR: wide(({ creator }) => creator),
  DESCRIPTION: ({ description }) => description,
};

/** The columns of a canary that was made, with its bytes in base64. */
export const MADE_CANARY: Columns<Canary & { readonly ciphertext: string }> = {
  NAME: CANARY['NAME'] as (canary: Canary) => string,
  'DATA KEY': ({ dataKey }) => dataKey,
  CIPHERTEXT: ({ ciphertext }) => ciphertext,
};

/** The columns of a suspension. */
export const SUSPENSION: Columns<Suspension> = {
  NAME: ({ name }) => name,
  CALLER: ({ caller }) => caller,
  CANARY: ({ canary }) => canary,
  CALL: ({ callId }) => callId,
  CREATED: ({ createTime }) => createTime.toISOString(),
  CREATOR: wide(({ creator }) => creator),
  DESCRIPTION: ({ description }) => description,
};

/** The columns of a permission that was asked about. */
export const PERMISSION: Columns<{ readonly permission: string; readonly allowed: boolean }> = {
  PERMISSION: ({ permission }) => permission,
  ALLOWED: ({ allowed }) => (allowed ? 'yes' : 'no'),
};

/** A caller's columns. */
export const CALLER: Columns<Caller> = {
  NAME: ({ name }) => name,
  ISSUER: ({ issuer }) => issuer,
  GROUPS: ({ groups }) => groups.join(', '),
  TENANTS: ({ limitedToTenants, tenants }) =>
    limitedToTenants ? tenants.join(', ') || 'none' : 'any',
  ACR: ({ acr }) => acr,
  METHODS: ({ authenticationMethods }) => authenticationMethods.join(', '),
  'SIGNED IN': ({ authenticationTime }) => ifAny(authenticationTime),
  AGE: ({ authenticationTime: time }) =>
    time === undefined ? '' : writeRoughly(Math.max(0, Date.now() - time.getTime()) / 1000),
  'TOKEN EXPIRES': ({ expireTime }) => ifAny(expireTime),
  'FIRST ADMINISTRATOR': ({ firstAdministrator }) => (firstAdministrator ? 'yes' : 'no'),
};

/** The columns of a named connection. */
export const PROFILE: Columns<{ readonly name: string; readonly used: boolean } & Settings> = {
  NAME: ({ name }) => name,
  USED: ({ used }) => (used ? 'yes' : ''),
  ADDRESS: ({ address = '' }) => address,
  CA: ({ caFile = '' }) => caFile,
  CERTIFICATE: ({ certFile = '' }) => certFile,
  TOKEN: ({ tokenFile = '' }) => tokenFile,
  ISSUER: ({ issuer = '' }) => issuer,
};

/** The columns of an audit entry, with what it says. */
export const AUDIT_ENTRY: Columns<AuditEntryContent & Pick<AuditEntry, 'leafIndex'>> = {
  ENTRY: ({ leafIndex }) => String(leafIndex),
  TIME: ({ time }) => time,
  TENANT: ({ tenant }) => tenant,
  CALLER: ({ caller }) => caller ?? '',
  METHOD: ({ method }) => method,
  RESOURCE: ({ resource }) => resource ?? '',
  DECISION: ({ decision }) => decision ?? '',
  OUTCOME: ({ outcome, count }) => (count === undefined ? outcome : `${outcome} (${count} times)`),
};

/** A state, and since or until when where that is what matters of it. */
function stateOf({ state, destroyTime, destroyEventTime }: Key | KeyVersion): string {
  const when =
    state === 'DESTROYED'
      ? destroyEventTime
      : state === 'DESTROY_SCHEDULED'
        ? destroyTime
        : undefined;
  return stateAt(state, when);
}

function stateAt(state: string, when: Date | undefined): string {
  return when === undefined ? state : `${state} (${when.toISOString()})`;
}

function ifAny(time: Date | undefined): string {
  return time?.toISOString() ?? '';
}

/** A time, for what may never have been. */
export function whenOf(time: Date | undefined): string {
  return time?.toISOString() ?? 'never';
}
