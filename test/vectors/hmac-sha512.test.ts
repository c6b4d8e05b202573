/**
 * Wycheproof's HMAC-SHA-512 vectors, through node:crypto, by which test/golden re-computes what the
 * service does, and through the token, by the mechanism with which the agent does it.
 */
import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { after, before, test } from 'node:test';
import { HMAC_SHA512 } from '../../src/hsm/agent/templates.ts';
import { hmacSha512 } from '../golden/recompute.ts';
import { importMaterial, type Outcome, ThrowawayToken } from './token.ts';
import { fromHex, groupsOf, type MacGroup, type MacVector, skip, tally } from './wycheproof.ts';

const FILE = 'hmac_sha512_test.json';
/** SoftHSM wants as many bytes of key as the HMAC has; Keyward's material has exactly so many. */
const SHORTEST_TOKEN_KEY_BITS = 512;

let token: ThrowawayToken;
before(async () => {
  if (skip === false) token = await ThrowawayToken.create();
});
after(() => token?.[Symbol.dispose]());

function hmacInToken({ key, msg }: MacVector): Outcome<Buffer> {
  return token.attempt((session) => {
    const sign = session.createSign(HMAC_SHA512, importMaterial(session, fromHex(key)));
    // SoftHSM refuses an empty message in one call, as none of Keyward's is, but not in two.
    return msg === '' ? sign.final() : sign.once(fromHex(msg));
  });
}

/** Asserts that the HMAC, cut to the vector's size, is its tag or isn't, as the vector says. */
function judge(vector: MacVector, hmac: Buffer, tagSize: number): void {
  assert.equal(hmac.length, 64);
  const equal = hmac.subarray(0, tagSize / 8).equals(fromHex(vector.tag));
  assert.equal(equal, vector.result === 'valid', `${vector.tcId}: ${vector.comment}`);
}

test('case 56: HMAC-SHA-512 by node:crypto does what Wycheproof says', { skip }, (t) => {
  const ran = tally();
  for (const { tests, tagSize } of groupsOf<MacGroup>(FILE)) {
    for (const vector of tests) {
      judge(vector, hmacSha512(fromHex(vector.key), fromHex(vector.msg)), tagSize);
      ran(vector.result);
    }
  }
  t.diagnostic(JSON.stringify(ran.counts));
  assert.ok((ran.counts['valid'] ?? 0) >= 66 && (ran.counts['invalid'] ?? 0) >= 108);
});

test('case 56: HMAC-SHA-512 in the token does what Wycheproof says', { skip }, (t) => {
  const ran = tally();
  for (const { tests, tagSize, keySize } of groupsOf<MacGroup>(FILE)) {
    for (const vector of tests) {
      const outcome = hmacInToken(vector);
      if (keySize < SHORTEST_TOKEN_KEY_BITS) {
        assert.equal(outcome.error, 'CKR_KEY_SIZE_RANGE', `${vector.tcId}`);
        ran('refused: short key');
      } else {
        judge(vector, outcome.value ?? assert.fail(`${vector.tcId}: ${outcome.error}`), tagSize);
        ran(vector.result);
      }
    }
  }
  t.diagnostic(JSON.stringify(ran.counts));
  assert.ok((ran.counts['valid'] ?? 0) >= 60 && (ran.counts['invalid'] ?? 0) >= 108);
});

test('HMAC-SHA-512 cut to 32 bytes is not HMAC with SHA-512/256', () => {
  const [key, input] = [Buffer.alloc(64, 1), Buffer.from('input')];
  const other = createHmac('sha512-256', key).update(input).digest();
  assert.equal(other.length, 32);
  assert.notDeepEqual(hmacSha512(key, input).subarray(0, 32), other);
});
