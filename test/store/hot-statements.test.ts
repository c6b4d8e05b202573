/**
 * What each hot statement costs in a large environment: by which indexes Postgres reads, for the
 * values at hand and for any, and how many rows. `test/long/` has the full size.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { costsOfHot } from './hot-costs.ts';
import { listStatements } from './looked-at.ts';
import { listClassified } from './statement-classes.ts';

test('every statement of the store is known to be hot, or why it is not', () => {
  assert.deepEqual(listClassified(), listStatements());
});

test('no hot statement reads a large table to its end, or more than a batch, however many keys there are', async () => {
  const amounts = { tenants: 1_000, keys: 50_000, dataKeys: 100_000, bindings: 10_000 };
  assert.deepEqual(await costsOfHot({ ...amounts, entries: 100_000 }), []);
});
