/**
 * What recognising a canary costs: the same work for whatever bytes are given, so that the time
 * that it takes tells nothing.
 */
import assert from 'node:assert/strict';
import crypto, { randomBytes } from 'node:crypto';
import { syncBuiltinESMExports } from 'node:module';
import { mock, test } from 'node:test';
import { CIPHERTEXT_OVERHEAD, MAX_PLAINTEXT_BYTES, saltDigest } from '../../src/hsm/ciphertext.ts';
import { Canaries, type CanariesParts } from '../../src/keyring/canaries/canaries.ts';

/** Of salts of ciphertexts; as many bytes as there are before it. */
const SALT_BYTES = 32;
const BEFORE_SALT = 24;

test('a ciphertext is looked at by one hash of 32 bytes at most, whatever it is', () => {
  const canaries = new Canaries({} as CanariesParts);
  const hashed = mock.method(crypto, 'hash');
  syncBuiltinESMExports();
  try {
    const lengths = [0, 1, 40, CIPHERTEXT_OVERHEAD, CIPHERTEXT_OVERHEAD + MAX_PLAINTEXT_BYTES];
    for (const length of [...lengths, 1_000_000]) {
      canaries.ofCiphertext(randomBytes(length));
      const [call, ...others] = hashed.mock.calls;
      assert.deepEqual(others, []);
      const [, bytes] = call?.arguments ?? [];
      assert.ok(Buffer.isBuffer(bytes) && bytes.length <= SALT_BYTES);
      hashed.mock.resetCalls();
    }
  } finally {
    hashed.mock.restore();
    syncBuiltinESMExports();
  }
});

test('what is looked at is the salt, all of it and nothing else', () => {
  const ciphertext = randomBytes(200);
  const digest = saltDigest(ciphertext);
  for (let index = 0; index < ciphertext.length; index++) {
    const changed = Buffer.from(ciphertext);
    changed.writeUInt8(changed.readUInt8(index) ^ 1, index);
    const isOfSalt = index >= BEFORE_SALT && index < BEFORE_SALT + SALT_BYTES;
    assert.equal(saltDigest(changed) !== digest, isOfSalt, String(index));
  }
});
