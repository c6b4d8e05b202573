/**
 * Wycheproof's vectors for AES key wrap, plain (KW, RFC 3394) and padded (KWP, RFC 5649), through
 * the token, by the mechanisms that root keys wrap with.
 *
 * SoftHSM has two peculiarities, of which neither concerns the 64 bytes that Keyward wraps: it
 * fills a key whose length is no multiple of 8 with zeros before it wraps it, and refuses to wrap
 * keys of 8 bytes or fewer by KW.
 */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import {
  importReadable,
  importRoot,
  type Outcome,
  READABLE,
  readValue,
  ThrowawayToken,
} from './token.ts';
import { fromHex, groupsOf, skip, tally, type WrapGroup, type WrapVector } from './wycheproof.ts';

const CKM_AES_KEY_WRAP = 0x2109;
/** RFC 5649 with SoftHSM. */
const CKM_AES_KEY_WRAP_PAD = 0x210a;

let token: ThrowawayToken;
before(async () => {
  if (skip === false) token = await ThrowawayToken.create();
});
after(() => token?.[Symbol.dispose]());

function wrap(mechanism: number, { key, msg }: WrapVector): Outcome<Buffer> {
  return token.attempt((session) => {
    const root = importRoot(session, fromHex(key));
    return Buffer.from(session.wrapKey(mechanism, root, importReadable(session, fromHex(msg))));
  });
}

function unwrap(mechanism: number, { key, ct }: WrapVector): Outcome<Buffer> {
  return token.attempt((session) => {
    const root = importRoot(session, fromHex(key));
    return readValue(session.unwrapKey(mechanism, root, fromHex(ct), READABLE));
  });
}

/** Runs a file's vectors and counts them. */
function run(file: string, mechanism: number): Readonly<Record<string, number>> {
  const ran = tally();
  for (const vector of groupsOf<WrapGroup>(file).flatMap(({ tests }) => tests)) {
    const about = `${vector.tcId}: ${vector.comment}`;
    const message = fromHex(vector.msg);
    const wholeBlocks = message.length % 8 === 0;
    const unwrapped = unwrap(mechanism, vector);
    const wrapped = wrap(mechanism, vector);
    if (vector.result === 'valid') {
      assert.deepEqual(unwrapped.value, message, about);
      if (wholeBlocks) assert.deepEqual(wrapped.value, fromHex(vector.ct), about);
      ran(wholeBlocks ? 'valid, both ways' : 'valid, unwrapped only');
    } else if (vector.result === 'acceptable') {
      // Either it works or it is refused; SoftHSM refuses.
      assert.match(unwrapped.error ?? '', /^CKR_/, about);
      ran('acceptable, refused');
    } else {
      assert.match(unwrapped.error ?? '', /^CKR_/, about);
      if (vector.ct !== '') assert.notDeepEqual(wrapped.value, fromHex(vector.ct), about);
      ran('invalid');
    }
  }
  return ran.counts;
}

test('case 56: KW in the token does what Wycheproof says', { skip }, (t) => {
  const counts = run('aes_wrap_test.json', CKM_AES_KEY_WRAP);
  t.diagnostic(JSON.stringify(counts));
  assert.ok((counts['valid, both ways'] ?? 0) >= 36 && (counts['invalid'] ?? 0) >= 126);
  assert.equal(counts['valid, unwrapped only'], undefined);
});

test('case 56: KWP in the token does what Wycheproof says', { skip }, (t) => {
  const counts = run('aes_kwp_test.json', CKM_AES_KEY_WRAP_PAD);
  t.diagnostic(JSON.stringify(counts));
  assert.ok((counts['valid, both ways'] ?? 0) >= 30 && (counts['invalid'] ?? 0) >= 177);
  assert.ok((counts['valid, unwrapped only'] ?? 0) >= 40);
});
