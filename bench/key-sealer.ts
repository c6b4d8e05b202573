/**
 * Seals keys of the bench's, thousands in a second: a process that has the token open, as an agent
 * has it.
 *
 * All of its keys have the material that one agent has wrapped, so that nothing is generated,
 * wrapped and proven for each; check value, row seal and seal of the state are each key's own,
 * computed in the token over what the service computes them over.
 */
import type { Key } from 'graphene-pk11';
import { HMAC_SHA512, useTemplate } from '../src/hsm/agent/templates.ts';
import { openToken } from '../src/hsm/agent/token.ts';
import { takeObjects } from '../src/hsm/agent/token-objects.ts';
import { encodeKeyState } from '../src/hsm/key-state.ts';
import {
  ALGORITHM,
  CHECK_VALUE_BYTES,
  checkInput,
  SEAL_BYTES,
  sealInput,
} from '../src/hsm/key-version.ts';
import { RECORD, recordSealInput } from '../src/hsm/record-seal.ts';
import type { TokenObject, TokenProfile } from '../src/hsm/token-profile.ts';
import type { EnvironmentId, KeyId, RootKeyId, SealKeyId, TenantId } from '../src/ids.ts';
import { newKeyState } from '../src/store/keys/keys.ts';

/** What all keys have in common. */
export interface Ground {
  readonly environmentId: EnvironmentId;
  readonly profile: TokenProfile;
  readonly objects: readonly TokenObject[];
  readonly rootKeyId: RootKeyId;
  readonly sealKeyId: SealKeyId;
  readonly wrapped: Buffer;
  readonly rotationMs: number;
}

export interface KeyToSeal {
  readonly tenantId: TenantId;
  readonly keyId: KeyId;
  readonly name: string;
}

/** What a key's rows have besides. */
export interface SealedKey {
  readonly nextRotationAt: Date;
  readonly checkValue: Buffer;
  readonly seal: Buffer;
  readonly stateSeal: Buffer;
}

/** Returns what seals keys, one by one. Throws as an agent's start does. */
function open(ground: Ground): (key: KeyToSeal) => SealedKey {
  const { environmentId, profile, rootKeyId, sealKeyId, wrapped } = ground;
  const { session } = openToken();
  const { objects } = takeObjects(session, ground, ground.objects);
  const handleOf = (id: string) => {
    const found = objects.find(({ objectId }) => objectId === id);
    if (found === undefined) throw new Error(`the token has no ${id}`);
    return found.handle;
  };
  const [root, sealKey] = [handleOf(rootKeyId), handleOf(sealKeyId)];
  const material = session.unwrapKey(profile.wrapMechanism, root, wrapped, useTemplate(profile));
  const hmac = (key: Key, input: Buffer, length: number) => {
    session.lib.C_SignInit(session.handle, { mechanism: HMAC_SHA512 }, key.handle);
    return session.lib.C_Sign(session.handle, input, Buffer.alloc(64)).subarray(0, length);
  };
  return ({ tenantId, keyId, name }) => {
    const identity = { tenantId, keyId, version: 1, algorithm: ALGORITHM.hmacSha512Aes256Gcm };
    const checkValue = hmac(material, checkInput(environmentId, identity), CHECK_VALUE_BYTES);
    const row = { ...identity, rootKeyId, wrap: profile.wrap, wrapped, checkValue };
    const settings = scheduled(ground.rotationMs);
    const seal = hmac(sealKey, sealInput(environmentId, row), SEAL_BYTES);
    const version = { ...row, sealKeyId, seal, state: 'ENABLED' } as const;
    const state = encodeKeyState(newKeyState({ name, settings, version }));
    return {
      nextRotationAt: settings.nextRotationAt,
      checkValue,
      seal,
      stateSeal: hmac(sealKey, recordSealInput(environmentId, RECORD.keyState, state), SEAL_BYTES),
    };
  };
}

/** Settings of a key that is rotated every so often, next after at least half of that. */
function scheduled(rotationMs: number) {
  const nextRotationAt = new Date(Date.now() + rotationMs * (1 - Math.random() / 2));
  return {
    ...{ description: '', labels: {}, rotationUsageLimit: null, maintenancePaused: false },
    derivationEpoch: null,
    ...{ rotationPeriodSeconds: rotationMs / 1_000, nextRotationAt },
  };
}

process.once('message', (ground: Ground) => {
  const seal = open(ground);
  process.on('message', (keys: readonly KeyToSeal[]) => process.send?.(keys.map(seal)));
});
