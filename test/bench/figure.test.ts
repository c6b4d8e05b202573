/**
 * Figures put points where they belong, and lines through points are those of least squares.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { histogram, lineChart } from '../../bench/figure.ts';
import { lineThrough } from '../../bench/slope.ts';

const axes = { title: 'A < B', x: { label: 'minutes' }, y: { label: 'MB' } };
const placesIn = (svg: string) => /points="([^"]*)"/.exec(svg)?.[1]?.split(' ');

test('a point at the end of both axes is drawn in the corner', () => {
  const svg = lineChart({
    ...axes,
    series: [
      {
        name: 'a',
        points: [
          [0, 0],
          [5, 10],
        ],
      },
    ],
  });
  assert.deepEqual(placesIn(svg), ['80.0,300.0', '700.0,60.0']);
  assert.match(svg, /A &lt; B/);
});

test('equal factors are equal steps on a logarithmic axis', () => {
  const x = { label: 'calls', isLog: true };
  const points = [
    [1, 1],
    [10, 1],
    [100, 1],
  ] as const;
  const svg = lineChart({ ...axes, x, series: [{ name: 'a', points }] });
  const places = placesIn(svg)?.map((place) => place.split(',')[0]);
  assert.deepEqual(places, ['80.0', '390.0', '700.0']);
});

test('every value of a histogram is in a bar', () => {
  const values = [0, 1, 1, 2, 10];
  const svg = histogram(axes, [{ name: 'a', values }], 10);
  const heights = [...svg.matchAll(/class="b0".* height="([\d.]+)"\/>/g)].map(([, h]) => Number(h));
  // The first is the legend's; the axis goes to 2, over 240.
  assert.deepEqual(heights.slice(1), [120, 240, 120, 0, 0, 0, 0, 0, 0, 120]);
});

test('a line through points has their slope, and an error where they do not lie on it', () => {
  assert.deepEqual(
    lineThrough([
      [0, 1],
      [1, 3],
      [2, 5],
    ]),
    { slope: 2, error: 0, mean: 3 },
  );
  const { slope, error } = lineThrough([
    [0, 0],
    [1, 1],
    [2, 0],
    [3, 1],
  ]);
  assert.ok(Math.abs(slope - 0.2) < 1e-9);
  // Residual sum of squares 0.8, two degrees of freedom, spread 5.
  assert.ok(Math.abs(error - Math.sqrt(0.8 / 2 / 5)) < 1e-9);
});
