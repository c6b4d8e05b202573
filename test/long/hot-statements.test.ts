/**
 * What hot statements cost with a million keys of a thousand tenants, a million stored data keys
 * and ten million entries in the audit log: minutes, most of them to make the rows.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { costsOfHot } from '../store/hot-costs.ts';

test('no hot statement reads a large table to its end, or more than a batch, with a million keys', async () => {
  const amounts = { tenants: 1_000, keys: 1_000_000, dataKeys: 1_000_000, bindings: 10_000 };
  assert.deepEqual(await costsOfHot({ ...amounts, entries: 10_000_000 }), []);
});
