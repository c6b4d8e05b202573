/** Case 57 at length; every `npm test` has a tenth of it. */
import assert from 'node:assert/strict';
import { it } from 'node:test';
import { repeatedAmong } from '../hsm/format/repeated.ts';

it('case 57: in a million messages no salt comes twice, and no IV', () => {
  assert.deepEqual(repeatedAmong(1_000_000), { salts: 0, ivs: 0 });
});
