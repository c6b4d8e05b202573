/**
 * Tenants, keys and key versions off the wire, in friendly types.
 *
 * Its invariant: an answer that isn't whole is refused, and what is newer than this client is `UNSPECIFIED`, never an
 * error. Knows nothing of methods.
 */
import type { Timestamp__Output } from './generated/google/protobuf/Timestamp.ts';
import type { Algorithm__Output } from './generated/keyward/v1/Algorithm.ts';
import type { Key__Output } from './generated/keyward/v1/Key.ts';
import type { KeyState__Output } from './generated/keyward/v1/KeyState.ts';
import type { KeyVersion__Output } from './generated/keyward/v1/KeyVersion.ts';
import type { KeyVersionState__Output } from './generated/keyward/v1/KeyVersionState.ts';
import type { Tenant__Output } from './generated/keyward/v1/Tenant.ts';
import type { TenantState__Output } from './generated/keyward/v1/TenantState.ts';
import type * as m from './messages.ts';

const TENANT_STATES = {
  TENANT_STATE_UNSPECIFIED: 'UNSPECIFIED',
  TENANT_STATE_ENABLED: 'ENABLED',
  TENANT_STATE_DISABLED: 'DISABLED',
} as const satisfies Record<TenantState__Output, m.TenantState>;

const KEY_STATES = {
  KEY_STATE_UNSPECIFIED: 'UNSPECIFIED',
  KEY_STATE_ENABLED: 'ENABLED',
  KEY_STATE_DISABLED: 'DISABLED',
} as const satisfies Record<KeyState__Output, m.KeyState>;

const KEY_VERSION_STATES = {
  KEY_VERSION_STATE_UNSPECIFIED: 'UNSPECIFIED',
  KEY_VERSION_STATE_ENABLED: 'ENABLED',
  KEY_VERSION_STATE_DISABLED: 'DISABLED',
} as const satisfies Record<KeyVersionState__Output, m.KeyVersionState>;

const ALGORITHMS = {
  ALGORITHM_UNSPECIFIED: 'UNSPECIFIED',
  ALGORITHM_HMAC_SHA512_AES_256_GCM: 'HMAC_SHA512_AES_256_GCM',
} as const satisfies Record<Algorithm__Output, m.Algorithm>;

// A value that the proto files here don't have yet arrives as its number, whatever the types say: hence `??` below.

export function tenant(wire: Tenant__Output): m.Tenant {
  return {
    name: wire.name,
    uid: wire.uid,
    createTime: date(wire.createTime),
    state: TENANT_STATES[wire.state] ?? 'UNSPECIFIED',
    etag: wire.etag,
  };
}

export function key(wire: Key__Output): m.Key {
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
  };
}

export function keyVersion(wire: KeyVersion__Output): m.KeyVersion {
  return {
    name: wire.name,
    state: KEY_VERSION_STATES[wire.state] ?? 'UNSPECIFIED',
    algorithm: ALGORITHMS[wire.algorithm] ?? 'UNSPECIFIED',
    createTime: date(wire.createTime),
    etag: wire.etag,
  };
}

/** To the millisecond: the rest of the nanoseconds is dropped. */
function date(wire: Timestamp__Output | null): Date {
  if (wire === null) throw new Error('the answer lacks a time');
  return new Date(wire.seconds * 1000 + Math.floor(wire.nanos / 1e6));
}
