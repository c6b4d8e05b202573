/**
 * New key versions: made by an agent under the keys of the token that are current.
 */
import type { Call } from '../../call.ts';
import { ALGORITHM } from '../../hsm/key-version.ts';
import type { Agents } from '../../hsm/token-router.ts';
import type { RootKeyId, SealKeyId, TenantId } from '../../ids.ts';
import type { NewKeyVersion } from '../../store/keys/key-versions.ts';
import type { KeyIdentity } from './mutations.ts';

/** What new key versions are wrapped and sealed by. */
export interface CurrentKeys {
  readonly rootKeyId: RootKeyId;
  readonly sealKeyId: SealKeyId;
}

/** Knows which keys of the token are current for each tenant. */
export interface CurrentKeySource {
  /**
   * Does what makes new key versions, with the keys that are current for the tenant; again where
   * those were replaced meanwhile. Throws TOKEN_KEY_NOT_READY, and what `work` throws.
   */
  withCurrent<T>(tenantId: TenantId, work: (current: CurrentKeys) => Promise<T>): Promise<T>;
}

/** Knows whether keys of the token are current. */
export interface CurrentKeyJudge {
  /**
   * Whether these are what is current for their tenants, also after another look. Throws
   * TOKEN_KEYS_CORRUPT, TOKEN_KEY_NOT_READY.
   */
  areCurrent(targets: readonly (CurrentKeys & { readonly tenantId: TenantId })[]): Promise<boolean>;
}

/** A proven version of the key, not yet stored. */
export async function makeKeyVersion(
  agents: Agents,
  call: Call,
  under: KeyIdentity & CurrentKeys,
  version: number,
): Promise<NewKeyVersion> {
  const request = { ...under, version, algorithm: ALGORITHM.hmacSha512Aes256Gcm };
  return { ...(await agents.call('createKeyVersion', request, call.deadline)), state: 'ENABLED' };
}
