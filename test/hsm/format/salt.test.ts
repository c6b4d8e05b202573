/**
 * Salts, IVs and whatever else is drawn by the pool of random bytes: given out once, and gone from
 * the pool afterwards.
 */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { drawRandom, NO_SUBJECT, PURPOSE, seal } from '../../../src/hsm/ciphertext.ts';
import { type KeyId, newId } from '../../../src/ids.ts';

const MESSAGES = 1_000_000;

/** How many of the numbers are there twice; sorts them. */
function repeated(numbers: BigUint64Array): number {
  numbers.sort();
  let count = 0;
  for (let index = 1; index < numbers.length; index++) {
    if (numbers[index] === numbers[index - 1]) count++;
  }
  return count;
}

describe('random bytes', () => {
  it('case 57: in a million messages no salt comes twice, and no IV', () => {
    const header = { purpose: PURPOSE.payload, keyId: newId<KeyId>(), version: 1 };
    const binding = {
      tenant: Buffer.alloc(16),
      subject: NO_SUBJECT,
      contextDigest: Buffer.alloc(32),
    };
    const nothing = Buffer.alloc(0);
    // The token's part is left out: what it answers has no bearing on salt and IV.
    const derived = Buffer.alloc(64);
    // Eight bytes of each: if those differ, all of it does, and by chance two are equal once in 18
    // million runs.
    const salts = new BigUint64Array(MESSAGES);
    const ivs = new BigUint64Array(MESSAGES);
    for (let index = 0; index < MESSAGES; index++) {
      const ciphertext = seal(header, binding, nothing, () => derived);
      salts[index] = ciphertext.readBigUInt64BE(24);
      ivs[index] = ciphertext.readBigUInt64BE(60);
    }
    assert.equal(repeated(salts), 0);
    assert.equal(repeated(ivs), 0);
  });

  it('of every size up to a whole pool are filled to their last byte, and differ', () => {
    // A byte that is zero 40 times in a row was not filled.
    for (const length of [1, 12, 16, 31, 32, 44, 64, 4095, 4096]) {
      const seen = Buffer.alloc(length);
      for (let round = 0; round < 40; round++) {
        const target = Buffer.alloc(length);
        drawRandom(target);
        for (const [index, byte] of target.entries()) seen[index] = (seen[index] ?? 0) | byte;
      }
      assert.ok(!seen.includes(0), `${length} bytes`);
    }
  });

  it('do not repeat across the pool’s end', () => {
    const drawn = new BigUint64Array(4_000);
    for (let index = 0; index < drawn.length; index++) {
      // Eight of 40 bytes, so that draws end at ever other distances from the pool's end.
      const target = Buffer.alloc(8 + (index % 5) * 8);
      drawRandom(target);
      drawn[index] = target.readBigUInt64BE(target.length - 8);
    }
    assert.equal(repeated(drawn), 0);
  });
});
