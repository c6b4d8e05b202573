/**
 * The heart, as the rest of the server sees it: tenants, their keys, and what is encrypted under them.
 *
 * Owns what the three have in common and nothing else; what happens on Encrypt is in `encryption.ts`.
 */
import { KeywardError } from '../errors.ts';
import type { HsmAgents } from '../hsm/agents.ts';
import type { RootKeyId, SealKeyId, TenantId } from '../ids.ts';
import type { Condition } from '../store/conditions.ts';
import type { Store } from '../store/store.ts';
import { Encryption } from './encryption.ts';
import type { KeyCache } from './key-cache.ts';
import { Keys } from './keys.ts';
import { Tenants } from './tenants.ts';

/** What the keyring stands on. */
export interface KeyringParts {
  readonly store: Store;
  readonly agents: HsmAgents;
  readonly cache: KeyCache;
  /** The token objects under which new key versions are wrapped and sealed. */
  readonly current: { readonly rootKeyId: RootKeyId; readonly sealKeyId: SealKeyId };
  /** The reserved tenant, whose audit entries say which tenants were made. */
  readonly systemTenantId: TenantId;
}

export interface Keyring {
  readonly tenants: Tenants;
  readonly keys: Keys;
  readonly encryption: Encryption;
}

export function createKeyring(parts: KeyringParts): Keyring {
  return { tenants: new Tenants(parts), keys: new Keys(parts), encryption: new Encryption(parts) };
}

/** Which page of a list, and which of its members. */
export interface ListRequest {
  readonly pageSize: number;
  readonly pageToken: string;
  readonly conditions: readonly Condition[];
}

/** Throws ETAG_MISMATCH when an etag is given and isn't the revision's. */
export function requireEtag(etag: string, revision: string): void {
  if (etag !== '' && etag !== revision) throw new KeywardError('ETAG_MISMATCH');
}
