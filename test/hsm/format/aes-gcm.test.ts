/**
 * AES-256-GCM as Keyward uses it: one length each of key, IV and tag, and no plaintext without its
 * tag. The vectors of others are in test/vectors.
 */
import assert from 'node:assert/strict';
import { createSecretKey } from 'node:crypto';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { decrypt, encryptInto, IV_BYTES, TAG_BYTES } from '../../../src/hsm/aes-gcm.ts';
import { bytes, bytesUpTo } from './sealing.ts';

const key = bytes(32).map((value) => createSecretKey(value));
const iv = bytes(IV_BYTES);

describe('AES-256-GCM', () => {
  it('decrypts what it encrypted, and only with the same key, IV and additional data', () => {
    fc.assert(
      fc.property(key, iv, bytesUpTo(50), bytesUpTo(200), (secret, nonce, aad, plaintext) => {
        const sealed = Buffer.alloc(plaintext.length + TAG_BYTES);
        encryptInto(sealed, secret, nonce, aad, plaintext);
        assert.deepEqual(decrypt(secret, nonce, aad, sealed), plaintext);
        const otherIv = Buffer.from(nonce.map((byte) => byte ^ 1));
        assert.equal(decrypt(secret, otherIv, aad, sealed), undefined);
        assert.equal(
          decrypt(secret, nonce, Buffer.concat([aad, Buffer.alloc(1)]), sealed),
          undefined,
        );
        const otherKey = createSecretKey(Buffer.from(secret.export().map((byte) => byte ^ 1)));
        assert.equal(decrypt(otherKey, nonce, aad, sealed), undefined);
      }),
    );
  });

  it('decrypts nothing that is changed by a bit, or cut, or has a shorter tag', () => {
    fc.assert(
      fc.property(key, iv, bytesUpTo(10), (secret, nonce, plaintext) => {
        const aad = Buffer.from('additional');
        const sealed = Buffer.alloc(plaintext.length + TAG_BYTES);
        encryptInto(sealed, secret, nonce, aad, plaintext);
        for (let bit = 0; bit < sealed.length * 8; bit++) {
          const changed = Buffer.from(sealed);
          changed.writeUInt8(changed.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3);
          assert.equal(decrypt(secret, nonce, aad, changed), undefined);
        }
        for (let length = 0; length < sealed.length; length++) {
          assert.equal(decrypt(secret, nonce, aad, sealed.subarray(0, length)), undefined);
        }
      }),
      { numRuns: 20 },
    );
  });

  const secret = createSecretKey(Buffer.alloc(32, 1));
  const nonce = Buffer.alloc(IV_BYTES, 2);
  const none = Buffer.alloc(0);

  it('throws RangeError for keys of other lengths', () => {
    for (const length of [1, 16, 24, 31, 33, 64]) {
      const other = createSecretKey(Buffer.alloc(length, 1));
      assert.throws(() => encryptInto(Buffer.alloc(16), other, nonce, none, none), RangeError);
      assert.throws(() => decrypt(other, nonce, none, Buffer.alloc(16)), RangeError);
    }
  });

  it('throws RangeError for IVs of other lengths, empty ones too', () => {
    for (const length of [0, 1, 8, 11, 13, 16]) {
      const other = Buffer.alloc(length, 2);
      assert.throws(() => encryptInto(Buffer.alloc(16), secret, other, none, none), RangeError);
      assert.throws(() => decrypt(secret, other, none, Buffer.alloc(16)), RangeError);
    }
  });

  it('throws RangeError for a target that is not as long as plaintext and tag', () => {
    for (const length of [0, 15, 17, 32]) {
      assert.throws(() => encryptInto(Buffer.alloc(length), secret, nonce, none, none), RangeError);
    }
  });
});
