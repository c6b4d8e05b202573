/**
 * Figures of several processes as those of one.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  type Aggregator,
  type Figure,
  lastingFigures,
  mergeFigures,
} from '../../src/signals/metrics/figures.ts';

const figure = (
  name: string,
  type: string,
  aggregator: Aggregator,
  values: readonly (readonly [label: string, value: number])[],
): Figure => ({
  ...{ name, type, aggregator, help: name },
  values: values.map(([label, value]) => ({ labels: { label }, value })),
});

/** The values of a metric by their label. */
const valuesOf = (figures: readonly Figure[], name: string) =>
  Object.fromEntries(
    figures
      .find((each) => each.name === name)
      ?.values.map(({ labels, value }) => [labels['label'], value]) ?? [],
  );

test('series are combined as their metric says, and each by itself', () => {
  const aggregators = ['sum', 'max', 'min', 'average', 'first', 'omit'] as const;
  const processes = [2, 4].map((value) => [
    ...aggregators.map((each) => figure(each, 'gauge', each, [['a', value]])),
    figure('apart', 'counter', 'sum', [[`of ${value}`, value]]),
  ]);
  const merged = mergeFigures(processes);
  const found = aggregators.map((each) => valuesOf(merged, each)['a']);
  assert.deepEqual(found, [6, 4, 2, 3, 2, undefined]);
  assert.deepEqual(valuesOf(merged, 'apart'), { 'of 2': 2, 'of 4': 4 });
});

test('of a process that has ended what only grows counts on, and nothing else', () => {
  const ended = lastingFigures([
    figure('calls', 'counter', 'sum', [['a', 5]]),
    figure('connections', 'gauge', 'sum', [['a', 5]]),
  ]);
  const next = [
    figure('calls', 'counter', 'sum', [['a', 1]]),
    figure('connections', 'gauge', 'sum', [['a', 1]]),
  ];
  const merged = mergeFigures([next, ended]);
  assert.deepEqual(valuesOf(merged, 'calls'), { a: 6 });
  assert.deepEqual(valuesOf(merged, 'connections'), { a: 1 });
});
