/**
 * The keyring's records as the contract's messages. Knows both and nothing else.
 */
import { formatKeyName, formatKeyVersionName, formatTenantName, type KeyName } from '../keyring/names.ts';
import type {
  KeyRecord,
  KeyVersionRecord,
  KeyState as StoredKeyState,
  KeyVersionState as StoredVersionState,
} from '../store/keys.ts';
import type { TenantState as StoredTenantState, TenantRecord } from '../store/tenants.ts';
import type { Algorithm } from './generated/keyward/v1/Algorithm.ts';
import type { Key } from './generated/keyward/v1/Key.ts';
import type { KeyState } from './generated/keyward/v1/KeyState.ts';
import type { KeyVersion } from './generated/keyward/v1/KeyVersion.ts';
import type { KeyVersionState } from './generated/keyward/v1/KeyVersionState.ts';
import type { Tenant } from './generated/keyward/v1/Tenant.ts';
import type { TenantState } from './generated/keyward/v1/TenantState.ts';

const TENANT_STATES: Readonly<Record<StoredTenantState, TenantState>> = {
  ENABLED: 'TENANT_STATE_ENABLED',
  DISABLED: 'TENANT_STATE_DISABLED',
};
const KEY_STATES: Readonly<Record<StoredKeyState, KeyState>> = {
  ENABLED: 'KEY_STATE_ENABLED',
  DISABLED: 'KEY_STATE_DISABLED',
};
const VERSION_STATES: Readonly<Record<StoredVersionState, KeyVersionState>> = {
  ENABLED: 'KEY_VERSION_STATE_ENABLED',
  DISABLED: 'KEY_VERSION_STATE_DISABLED',
};
const ALGORITHMS: Readonly<Record<number, Algorithm>> = { 1: 'ALGORITHM_HMAC_SHA512_AES_256_GCM' };

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
  };
}

export function keyVersionMessage(name: KeyName, record: KeyVersionRecord): KeyVersion {
  return {
    name: formatKeyVersionName(name, record.version),
    state: VERSION_STATES[record.state],
    algorithm: ALGORITHMS[record.algorithm] ?? 'ALGORITHM_UNSPECIFIED',
    createTime: timestamp(record.createdAt),
    etag: record.revision,
  };
}

function timestamp(date: Date): { readonly seconds: number; readonly nanos: number } {
  const milliseconds = date.getTime();
  const seconds = Math.floor(milliseconds / 1000);
  return { seconds, nanos: (milliseconds - seconds * 1000) * 1e6 };
}
