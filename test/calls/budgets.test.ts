/**
 * The budgets of the process that depend on time: decoding, and what could not be finished in time.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { Budgets } from '../../src/calls/budgets.ts';
import { KeywardError } from '../../src/errors.ts';
import { eventually } from '../support/kit.ts';

const LIMITS = { maxCalls: 1_024, maxRequestBytes: 1_048_576 };
const LARGE = 1_000_000;

/** Uses so many milliseconds of the processor. */
function work(ms: number): void {
  const before = process.threadCpuUsage();
  for (;;) {
    const { user, system } = process.threadCpuUsage(before);
    if (user + system >= ms * 1_000) return;
  }
}

function isBusy(error: unknown): boolean {
  return (
    error instanceof KeywardError && error.reason === 'SERVER_BUSY' && (error.retryAfterMs ?? 0) > 0
  );
}

describe('time for decoding', () => {
  // Where the process stands still for a second in between, the share is back.
  test('a caller that had its share is refused without decoding, others and small messages are not', () =>
    eventually(() => {
      const budgets = new Budgets(LIMITS);
      budgets.decode('greedy', LARGE, () => work(300));
      assert.throws(
        () => budgets.decode('greedy', LARGE, () => assert.fail('it was decoded')),
        isBusy,
      );
      assert.equal(
        budgets.decode('another', LARGE, () => 'decoded'),
        'decoded',
      );
      assert.equal(
        budgets.decode('greedy', 1_000, () => 'decoded'),
        'decoded',
      );
    }));

  test('what cannot be decoded costs its sender what it took', () =>
    eventually(() => {
      const budgets = new Budgets(LIMITS);
      const failing = () => {
        work(300);
        throw new Error('no message');
      };
      assert.throws(() => budgets.decode('greedy', LARGE, failing), /no message/);
      assert.throws(() => budgets.decode('greedy', LARGE, failing), isBusy);
    }));

  test('a caller has its share again after a second', async () => {
    const budgets = new Budgets(LIMITS);
    budgets.decode('greedy', LARGE, () => work(300));
    await new Promise((resolve) => setTimeout(resolve, 1_100));
    assert.equal(
      budgets.decode('greedy', LARGE, () => 'decoded'),
      'decoded',
    );
  });
});

describe('calls in vain', () => {
  const PATH = '/a/method';

  test('a call that could not be finished in time is in vain while many are under way, and only then', () => {
    const budgets = new Budgets(LIMITS);
    budgets.finished(PATH, 100, false);
    assert.ok(!budgets.isInVain(PATH, 40));
    for (let index = 0; index < 32; index += 1) budgets.keyUses.take('a caller');
    assert.ok(budgets.isInVain(PATH, 40));
    assert.ok(!budgets.isInVain(PATH, 1_000));
    assert.ok(!budgets.isInVain('/another/method', 40));
  });

  test('calls that run out of their time make the next ones in vain; those that are done let them through', () => {
    const budgets = new Budgets(LIMITS);
    for (let index = 0; index < 32; index += 1) budgets.keyUses.take('a caller');
    for (let index = 0; index < 100; index += 1) budgets.finished(PATH, 40, true);
    assert.ok(budgets.isInVain(PATH, 40));
    for (let index = 0; index < 100; index += 1) budgets.finished(PATH, 5, false);
    assert.ok(!budgets.isInVain(PATH, 40));
  });
});
