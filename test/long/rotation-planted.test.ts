/**
 * The harness of `test/rotation/`, tested: every mistake that is planted in a copy of the sources
 * is caught, by the invariant that it breaks. Some of them are in every `npm test`.
 */
import { test } from 'node:test';
import { assertCaught, MISTAKES } from '../rotation/mistakes.ts';

for (const [what, mistake] of Object.entries(MISTAKES))
  test(`planted: ${what} is caught`, () => assertCaught(mistake));
