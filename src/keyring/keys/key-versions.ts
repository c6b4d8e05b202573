/**
 * New key versions: made by an agent under the keys of the token that are current, and how the
 * answer of a request that made one is rebuilt.
 */
import type { Call } from '../../call.ts';
import { ALGORITHM } from '../../hsm/key-version.ts';
import type { Agents } from '../../hsm/token-router.ts';
import type { KeyId, RootKeyId, SealKeyId, TenantId } from '../../ids.ts';
import { findVersion, type NewKeyVersion } from '../../store/keys/key-versions.ts';
import { findKey, type KeyRecord } from '../../store/keys/keys.ts';
import type { Reference } from '../../store/request-ids.ts';
import type { Replay } from '../../store/store.ts';
import type { KeyStates } from './key-states.ts';
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

/** A key's answer rebuilt: as it is now, but for the primary that the effect had made. */
export function replayOf(
  { states }: { readonly states: KeyStates },
  { deadline }: Pick<Call, 'deadline'>,
  tenantId: TenantId,
  reference: Reference,
): Replay<KeyRecord> {
  return {
    reference,
    rebuild: async (tx, { keyId, version }) => {
      const readAfter = states.now();
      const key = await findKey(tx, tenantId, keyId as KeyId);
      if (key === undefined) throw new Error('a key that a request made is gone');
      await states.verify([key.sealed], { readAfter, deadline });
      const primary =
        typeof version === 'number' && (await findVersion(tx, tenantId, key.keyId, version));
      return primary ? { ...key, primary } : key;
    },
  };
}
