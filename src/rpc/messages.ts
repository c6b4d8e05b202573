/**
 * The keyring's records as the contract's messages. Knows both and nothing else.
 */
import type { NamedKey } from '../keyring/keyring.ts';
import { formatKeyName, formatKeyVersionName, formatTenantName, type KeyName } from '../keyring/names.ts';
import type { KeyVersionRecord } from '../store/keys.ts';
import type { TenantRecord } from '../store/tenants.ts';
import type { Algorithm } from './generated/keyward/v1/Algorithm.ts';
import type { Key } from './generated/keyward/v1/Key.ts';
import type { KeyVersion } from './generated/keyward/v1/KeyVersion.ts';
import type { KeyVersionState } from './generated/keyward/v1/KeyVersionState.ts';
import type { Tenant } from './generated/keyward/v1/Tenant.ts';

const STATES = { ENABLED: 'KEY_VERSION_STATE_ENABLED' } as const satisfies Record<string, KeyVersionState>;
const ALGORITHMS: Readonly<Record<number, Algorithm>> = { 1: 'ALGORITHM_HMAC_SHA512_AES_256_GCM' };

export function tenantMessage({ name, tenantId, createdAt }: TenantRecord): Tenant {
  return { name: formatTenantName({ tenant: name }), uid: tenantId, createTime: timestamp(createdAt) };
}

export function keyMessage({ name, record }: NamedKey): Key {
  return {
    name: formatKeyName(name),
    uid: record.keyId,
    primary: keyVersionMessage(name, record.primary),
    createTime: timestamp(record.createdAt),
  };
}

export function keyVersionMessage(name: KeyName, record: KeyVersionRecord): KeyVersion {
  return {
    name: formatKeyVersionName(name, record.version),
    state: STATES[record.state],
    algorithm: ALGORITHMS[record.algorithm] ?? 'ALGORITHM_UNSPECIFIED',
    createTime: timestamp(record.createdAt),
  };
}

function timestamp(date: Date): { readonly seconds: number; readonly nanos: number } {
  const milliseconds = date.getTime();
  const seconds = Math.floor(milliseconds / 1000);
  return { seconds, nanos: (milliseconds - seconds * 1000) * 1e6 };
}
