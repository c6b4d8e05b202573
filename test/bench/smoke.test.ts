/**
 * A bench, as the run's seed draws, runs quickly, and writes a section of numbers. What they are is
 * no matter here; `test/long/bench.test.ts` has every bench, with all of their rows.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BENCHES } from '../../bench/benches.ts';
import { draw, randomBy, SEED } from '../support/random.ts';
import { assertFigure, quickBench } from './quick.ts';

test(`a quick bench writes its section, with numbers and what was to be reached (seed ${SEED})`, async (t) => {
  const { name, title } = draw(BENCHES, randomBy(SEED));
  t.diagnostic(name);
  const text = await quickBench(name);
  assert.ok(text.includes(`## ${title}\n`), text);
  assert.match(text, /^\| [^|\n]+ \|.*\d.*\|$/m);
  assert.match(text, /^- [✓✗] /mu);
  assert.doesNotMatch(text, /NaN|Infinity|undefined/);
  for (const [, figure = ''] of text.matchAll(/\(figures\/(.+)\.svg\)$/gm))
    assertFigure(text, figure);
});
