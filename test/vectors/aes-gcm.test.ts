/**
 * Wycheproof's AES-GCM vectors through Keyward's own code: those of its lengths as they say, all
 * others refused.
 */
import assert from 'node:assert/strict';
import { createSecretKey } from 'node:crypto';
import { test } from 'node:test';
import { decrypt, encryptInto, TAG_BYTES } from '../../src/hsm/aes-gcm.ts';
import { type AeadGroup, type AeadVector, fromHex, groupsOf, skip, tally } from './wycheproof.ts';

const FILE = 'aes_gcm_test.json';

function isOurs({ keySize, ivSize, tagSize }: AeadGroup): boolean {
  return keySize === 256 && ivSize === 96 && tagSize === 128;
}

function encrypt({ key, iv, aad, msg }: AeadVector): Buffer {
  const plaintext = fromHex(msg);
  const target = Buffer.alloc(plaintext.length + TAG_BYTES);
  encryptInto(target, createSecretKey(fromHex(key)), fromHex(iv), fromHex(aad), plaintext);
  return target;
}

function decryptVector({ key, iv, aad, ct, tag }: AeadVector): Buffer | undefined {
  return decrypt(createSecretKey(fromHex(key)), fromHex(iv), fromHex(aad), fromHex(ct + tag));
}

test('case 56: AES-256-GCM with 96-bit IVs and 128-bit tags does what Wycheproof says', {
  skip,
}, (t) => {
  const ran = tally();
  for (const vector of groupsOf<AeadGroup>(FILE)
    .filter(isOurs)
    .flatMap(({ tests }) => tests)) {
    const about = `${vector.tcId}: ${vector.comment}`;
    const expected = fromHex(vector.ct + vector.tag);
    if (vector.result === 'valid') {
      assert.deepEqual(encrypt(vector), expected, about);
      assert.deepEqual(decryptVector(vector), fromHex(vector.msg), about);
    } else {
      assert.equal(decryptVector(vector), undefined, about);
      assert.notDeepEqual(encrypt(vector), expected, about);
    }
    ran(vector.result);
  }
  t.diagnostic(JSON.stringify(ran.counts));
  assert.ok((ran.counts['valid'] ?? 0) >= 39 && (ran.counts['invalid'] ?? 0) >= 27);
});

test('case 56: AES-GCM with keys and IVs of other lengths is refused', { skip }, (t) => {
  const ran = tally();
  for (const group of groupsOf<AeadGroup>(FILE).filter((each) => !isOurs(each))) {
    for (const vector of group.tests) {
      assert.throws(() => encrypt(vector), RangeError, `${vector.tcId}`);
      assert.throws(() => decryptVector(vector), RangeError, `${vector.tcId}`);
      ran(group.keySize === 256 ? 'IV' : 'key');
    }
  }
  t.diagnostic(JSON.stringify(ran.counts));
  assert.ok((ran.counts['IV'] ?? 0) >= 30 && (ran.counts['key'] ?? 0) >= 200);
});
