/**
 * The golden key versions and ciphertexts with a token's HMAC in place of node:crypto's: what this
 * release wrote opens in any token that has AES key wrap and HMAC-SHA-512.
 */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { probe } from '../../src/hsm/agent/probe.ts';
import { HMAC_SHA512, useTemplate } from '../../src/hsm/agent/templates.ts';
import { open, PURPOSE } from '../../src/hsm/ciphertext.ts';
import { checkInput, sealInput, WRAP } from '../../src/hsm/key-version.ts';
import {
  type AnyId,
  type EnvironmentId,
  idToBytes,
  type KeyId,
  type RootKeyId,
  type TenantId,
} from '../../src/ids.ts';
import { contextDigest } from '../../src/keyring/keys/encryption-context.ts';
import { keyVersions, opening } from '../golden/vectors.ts';
import { importMaterial, importRoot, ThrowawayToken } from './token.ts';

const MECHANISMS: Readonly<Record<number, number>> = {
  [WRAP.rfc3394]: 0x2109,
  [WRAP.rfc5649]: 0x210a,
};

let token: ThrowawayToken;
before(async () => {
  token = await ThrowawayToken.create();
});
after(() => token?.[Symbol.dispose]());

test('a token unwraps golden key versions as the agent does, and computes their check values and seals', () => {
  const profile = probe(token.slot);
  for (const vector of keyVersions) {
    const environment = vector.environment as EnvironmentId;
    const row = {
      ...vector,
      tenantId: vector.tenant as TenantId,
      keyId: vector.key as KeyId,
      rootKeyId: vector.root as RootKeyId,
    };
    const outcome = token.attempt((session) => {
      const root = importRoot(session, vector.rootKey);
      const mechanism = MECHANISMS[vector.wrap] ?? assert.fail(`wrap ${vector.wrap}`);
      const material = session.unwrapKey(mechanism, root, vector.wrapped, useTemplate(profile));
      const sealKey = importMaterial(session, vector.sealKey);
      return {
        checkValue: session.createSign(HMAC_SHA512, material).once(checkInput(environment, row)),
        seal: session.createSign(HMAC_SHA512, sealKey).once(sealInput(environment, row)),
      };
    });
    const { checkValue, seal } = outcome.value ?? assert.fail(outcome.error);
    assert.deepEqual(checkValue.subarray(0, 16), vector.checkValue, vector.name);
    assert.deepEqual(seal.subarray(0, 32), vector.seal, vector.name);
  }
  assert.ok(keyVersions.length >= 4);
});

test('case 58: golden ciphertexts of every purpose open with the HMAC of a token', () => {
  for (const vector of opening) {
    const outcome = token.attempt((session) => {
      const material = importMaterial(session, vector.material);
      const binding = {
        tenant: idToBytes(vector.tenant as AnyId),
        subject: idToBytes(vector.subject as AnyId),
        contextDigest: contextDigest(new Map(vector.context)),
      };
      return open(vector.ciphertext, binding, (input) =>
        session.createSign(HMAC_SHA512, material).once(input),
      );
    });
    assert.deepEqual(outcome.value, vector.plaintext, `${vector.name}: ${outcome.error}`);
  }
  assert.equal(new Set(opening.map(({ purpose }) => purpose)).size, Object.keys(PURPOSE).length);
});
