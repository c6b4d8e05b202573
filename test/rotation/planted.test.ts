/**
 * The harness, tested: of the mistakes that are planted in copies of the sources, some are caught,
 * drawn by seed; and all can be planted still. `test/long/rotation-planted.test.ts` has all caught.
 */
import { test } from 'node:test';
import { drawSome, randomBy, SEED } from '../support/random.ts';
import { assertCaught, MISTAKES } from './mistakes.ts';
import { edited } from './planted.ts';

const SOME = 1;

for (const [what, mistake] of drawSome(Object.entries(MISTAKES), SOME, randomBy(SEED)))
  test(`planted: ${what} is caught (seed ${SEED})`, () => assertCaught(mistake));

test('every mistake can still be planted: what it changes is there, once', () => {
  for (const { edits } of Object.values(MISTAKES)) edited(edits);
});
