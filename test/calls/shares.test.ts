/**
 * Shares of a pool: what one principal can hold of it, and what it can't keep from others.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { Shares } from '../../src/calls/shares.ts';

/** Has a principal take one by one for as long as it may; returns how many it got. */
function fill(shares: Shares, principal: string): number {
  let count = 0;
  for (; shares.allows(principal); count += 1) shares.take(principal);
  return count;
}

describe('shares of a pool', () => {
  test('one principal gets half, a second half of the rest, and a newcomer always finds room', () => {
    const shares = new Shares(1_024);
    assert.equal(fill(shares, 'greedy'), 512);
    assert.equal(fill(shares, 'greedier'), 256);
    for (let index = 0; index < 100; index += 1) assert.ok(shares.allows(`newcomer ${index}`));
  });

  test('who took unasked is told that it is too much, and nobody else is', () => {
    const shares = new Shares(1_000);
    shares.take('small', 10);
    shares.take('large', 600);
    assert.ok(shares.isExceededBy('large'));
    assert.ok(!shares.isExceededBy('small'));
  });

  test('whatever is taken and given back, nothing is lost and nobody gets more than was free', () => {
    const steps = fc.array(
      fc.record({
        principal: fc.constantFrom('a', 'b', 'c'),
        amount: fc.integer({ min: 1, max: 40 }),
        takes: fc.boolean(),
      }),
    );
    fc.assert(
      fc.property(steps, (taken) => {
        const shares = new Shares(100);
        const held: [string, number][] = [];
        for (const { principal, amount, takes } of taken) {
          if (takes && shares.allows(principal, amount)) {
            assert.ok(shares.heldBy(principal) + amount <= 100 - shares.used);
            shares.take(principal, amount);
            held.push([principal, amount]);
          } else {
            const [who, what] = held.pop() ?? [];
            if (who !== undefined) shares.give(who, what);
          }
          assert.equal(
            shares.used,
            held.reduce((sum, [, each]) => sum + each, 0),
          );
        }
        for (const [who, what] of held) shares.give(who, what);
        assert.deepEqual([shares.used, shares.heldBy('a'), shares.heldBy('b')], [0, 0, 0]);
      }),
    );
  });
});
