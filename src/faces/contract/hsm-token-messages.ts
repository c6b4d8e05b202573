/**
 * What the keyring says of the HSM token as the contract's messages. Knows both and nothing else.
 */
import type {
  AttributePosture,
  ObjectCondition,
  TokenObjectRole as StoredRole,
} from '../../hsm/token-profile.ts';
import type { UsedTokenKey } from '../../keyring/hsm-token/token-keys.ts';
import type { TokenStatusRecord } from '../../keyring/hsm-token/token-status.ts';
import { formatJobName, formatTenantName, formatTokenKeyName } from '../../names.ts';
import type { TokenObjectState } from '../../store/hsm-token/token-objects.ts';
import type { TokenAttributeState } from './generated/keyward/v1/TokenAttributeState.ts';
import type { TokenKey } from './generated/keyward/v1/TokenKey.ts';
import type { TokenKeyState } from './generated/keyward/v1/TokenKeyState.ts';
import type { TokenObjectCondition } from './generated/keyward/v1/TokenObjectCondition.ts';
import type { TokenObjectRole } from './generated/keyward/v1/TokenObjectRole.ts';
import type { TokenStatus } from './generated/keyward/v1/TokenStatus.ts';
import { optionalTime, timestamp } from './times.ts';

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
const TOKEN_KEY_STATES: Readonly<Record<TokenObjectState, TokenKeyState>> = {
  CREATING: 'TOKEN_KEY_STATE_CREATING',
  CREATED: 'TOKEN_KEY_STATE_CREATED',
  CURRENT: 'TOKEN_KEY_STATE_CURRENT',
  RETIRED: 'TOKEN_KEY_STATE_RETIRED',
  ABANDONED: 'TOKEN_KEY_STATE_ABANDONED',
  DESTROYING: 'TOKEN_KEY_STATE_DESTROYING',
  DESTROYED: 'TOKEN_KEY_STATE_DESTROYED',
};

export function tokenKeyMessage({ record, keyVersions, sealedRecords }: UsedTokenKey): TokenKey {
  return {
    name: formatTokenKeyName(record, record.objectId),
    role: TOKEN_OBJECT_ROLES[record.role],
    state: TOKEN_KEY_STATES[record.state],
    createTime: timestamp(record.createdAt),
    activateTime: optionalTime(record.activatedAt),
    retireTime: optionalTime(record.retiredAt),
    destroyTime: optionalTime(record.destroyedAt),
    caller: record.caller,
    rewrapJob: record.jobId === null ? '' : formatJobName(record, record.jobId),
    keyVersions,
    sealedRecords,
  };
}

export function tokenStatusMessage(record: TokenStatusRecord): TokenStatus {
  const { environmentId, objects, unrecorded, ...token } = record;
  return {
    ...token,
    environmentUid: environmentId,
    profile: { ...token.profile, unsupportedAttributes: [...token.profile.unsupportedAttributes] },
    objects: objects.map(
      ({ objectId, role, tenant, isCurrent, condition, attributes, keyVersions, toDo }) => ({
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
        tenant: formatTenantName({ tenant }),
        toDo,
      }),
    ),
    unrecordedObjects: unrecorded.map(({ objectId, label }) => ({ uid: objectId, label })),
  };
}
