/**
 * Each condition for readiness by itself: what breaks it, and how it is named.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Readiness, type ReadinessParts } from '../../src/status/readiness.ts';

const GOOD: ReadinessParts = {
  agents: { ready: true },
  feed: { isFresh: () => true, isFailing: false },
  store: { appendFailure: undefined },
};

const problemsOf = ({ conditions }: Readiness) =>
  conditions.flatMap(({ name, problem }) => (problem === undefined ? [] : name));

function started(parts: Partial<ReadinessParts> = {}): Readiness {
  const readiness = new Readiness({ ...GOOD, ...parts });
  readiness.started();
  return readiness;
}

test('a replica is ready from its start to its end', () => {
  const readiness = new Readiness(GOOD);
  assert.deepEqual([readiness.isReady, problemsOf(readiness)], [false, ['started']]);
  readiness.started();
  assert.deepEqual([readiness.isReady, problemsOf(readiness)], [true, []]);
  readiness.stops();
  assert.deepEqual([readiness.isReady, problemsOf(readiness)], [false, ['serving']]);
});

for (const [what, parts, names] of [
  ['no agent', { agents: { ready: false } }, ['hsm']],
  ['a poll that failed once', { feed: { isFresh: () => true, isFailing: true } }, []],
  ['polls that fail', { feed: { isFresh: () => false, isFailing: true } }, ['database', 'changes']],
  ['polls that are late', { feed: { isFresh: () => false, isFailing: false } }, ['changes']],
  ['entries that cannot be added', { store: { appendFailure: new Error('away') } }, ['audit']],
] as const)
  test(`with ${what} the conditions that do not hold are: ${names.join(', ') || 'none'}`, () => {
    const readiness = started(parts);
    assert.deepEqual([readiness.isReady, problemsOf(readiness)], [names.length === 0, names]);
  });
