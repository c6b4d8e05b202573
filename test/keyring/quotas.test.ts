import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { RateBucket } from '../../src/keyring/tenants/quotas.ts';

/**
 * Takers one after another: how much each wants, and how many milliseconds after the one before.
 */
const takers = fc.array(
  fc.tuple(fc.integer({ min: 1, max: 50 }), fc.integer({ min: 0, max: 3_000 })),
  {
    minLength: 1,
    maxLength: 60,
  },
);
/** Shares a second: of 1 for many replicas up to more than anyone takes. */
const shares = fc.double({ min: 0.1, max: 100, noNaN: true });

test('in no time does a bucket give more than its share of it, one second’s at once, and the last taker’s excess', () => {
  fc.assert(
    fc.property(takers, shares, (all, share) => {
      const bucket = new RateBucket();
      const given: { at: number; amount: number }[] = [];
      let now = 1_000_000;
      for (const [amount, pause] of all) {
        now += pause;
        if (bucket.take(amount, share, now) === 0) given.push({ at: now, amount });
      }
      for (const [from, { at: start }] of given.entries()) {
        let sum = 0;
        for (const { at, amount } of given.slice(from)) {
          // Whoever gets something finds at least one, or a full bucket: all before him are within
          // what came in.
          const most = Math.max(1, share) + ((at - start) * share) / 1000;
          assert.ok(sum <= most + 1e-6, `${sum} before ${at - start} ms, at ${share}`);
          sum += amount;
        }
      }
    }),
  );
});

test('whoever is refused is given what he wants after the time that he is told, if nobody else takes it', () => {
  fc.assert(
    fc.property(takers, shares, (all, share) => {
      const bucket = new RateBucket();
      let now = 1_000_000;
      for (const [amount, pause] of all) {
        now += pause;
        const wait = bucket.take(amount, share, now);
        if (wait === 0) continue;
        // Of less than a millisecond, half may be too little to be told.
        if (wait > 1) assert.ok(bucket.take(amount, share, now + wait / 2) > 0);
        now += Math.ceil(wait);
        assert.equal(bucket.take(amount, share, now), 0);
      }
    }),
  );
});

test('fractions that add up to a little less than is wanted are taken for it', () => {
  const bucket = new RateBucket();
  assert.equal(bucket.take(3, 0.1, 1_000_000), 0);
  const wait = bucket.take(1, 0.1, 1_002_000);
  assert.ok(bucket.take(1, 0.1, 1_002_000 + wait / 2) > 0);
  assert.equal(bucket.take(1, 0.1, 1_002_000 + Math.ceil(wait)), 0);
});

test('a batch that is larger than the bucket is given when that is full, and what follows waits for all of it', () => {
  const bucket = new RateBucket();
  assert.equal(bucket.take(1_000, 10, 0), 0);
  assert.equal(bucket.take(1, 10, 0), 99_100);
  assert.equal(bucket.take(1, 10, 99_100), 0);
});
