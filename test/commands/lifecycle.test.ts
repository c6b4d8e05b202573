import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Lifecycle, type Part } from '../../src/commands/lifecycle.ts';

/** Parts by these names, which note what happens to them. */
function partsOf(names: readonly string[], special: Readonly<Record<string, Partial<Part>>> = {}) {
  const events: string[] = [];
  const parts = names.map((name) => ({
    name,
    start: () => void events.push(`start ${name}`),
    stop: async () => void events.push(`stop ${name}`),
    ...special[name],
  }));
  return { events, lifecycle: new Lifecycle(parts) };
}

test('parts start in order and stop in reverse, once', async () => {
  const { events, lifecycle } = partsOf(['a', 'b']);
  await lifecycle.start();
  await lifecycle.stop();
  await lifecycle.stop();
  assert.deepEqual(events, ['start a', 'start b', 'stop b', 'stop a']);
});

test('a part that fails to start is stopped with those before it; those after it never start', async () => {
  const start = () => Promise.reject(new Error('no'));
  const { events, lifecycle } = partsOf(['a', 'b', 'c'], { b: { start } });
  await assert.rejects(lifecycle.start(), /^Error: no$/);
  await lifecycle.stop();
  assert.deepEqual(events, ['start a', 'stop b', 'stop a']);
});

test('a part that is stopped while it starts may fail, and nothing starts after it', async () => {
  const { promise, reject } = Promise.withResolvers<void>();
  const b = { start: () => promise, stop: () => reject(new Error('it was stopped')) };
  const { events, lifecycle } = partsOf(['a', 'b', 'c'], { b });
  const starting = lifecycle.start();
  await lifecycle.stop();
  await starting;
  assert.deepEqual(events, ['start a', 'stop a']);
});

test('a part that cannot stop keeps none of the others from stopping, and is named', async () => {
  const stop = () => Promise.reject(new Error('no'));
  const { events, lifecycle } = partsOf(['a', 'b', 'c'], { b: { stop } });
  await lifecycle.start();
  await assert.rejects(lifecycle.stop(), /^Error: cannot stop b$/);
  assert.deepEqual(events.slice(-2), ['stop c', 'stop a']);
});
