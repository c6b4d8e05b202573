/**
 * The tests' reporter: Node's `spec` for every test, and the counts as the very last lines, also
 * behind the details of what failed.
 *
 * Runs inside Node's test runner. Owns only where the counts stand. Where KEYWARD_TEST_COUNTS names
 * a file, they include those of the runs before that have named it. With KEYWARD_TEST_SLOWEST it
 * tells before them what took longest.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { spec } from 'node:test/reporters';
import { Slowest } from './slowest.js';

const COUNT = /^(tests|suites|pass|fail|cancelled|skipped|todo|duration_ms) ([\d.]+)$/;

/**
 * @param {AsyncIterable<import('node:test/reporters').TestEvent>} source
 * @returns {AsyncGenerator<string>}
 */
export default async function* reporter(source) {
  /** @type {Map<string, number>} */
  const counts = new Map();
  const slowest = new Slowest();
  const withoutCounts = new Transform({
    objectMode: true,
    transform(event, _encoding, done) {
      slowest.add(event);
      const count =
        event.type === 'test:diagnostic' && event.data.nesting === 0
          ? COUNT.exec(event.data.message)
          : null;
      if (count === null) return done(null, event);
      counts.set(count[1] ?? '', Number(count[2]));
      done();
    },
  });
  const shown = new spec();
  const fed = pipeline(source, withoutCounts, shown);
  for await (const chunk of shown) yield String(chunk);
  await fed;
  if (process.env['KEYWARD_TEST_SLOWEST'] !== undefined) yield `\n${slowest}`;
  addEarlier(counts);
  yield closingLines(counts);
}

/** @param {Map<string, number>} counts */
function addEarlier(counts) {
  const file = process.env['KEYWARD_TEST_COUNTS'];
  if (file === undefined) return;
  /** @type {Record<string, number>} */
  const earlier = existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : {};
  for (const [name, value] of Object.entries(earlier))
    counts.set(name, value + (counts.get(name) ?? 0));
  writeFileSync(file, JSON.stringify(Object.fromEntries(counts)));
}

/** @param {Map<string, number>} counts */
function closingLines(counts) {
  const count = (/** @type {string} */ name) => counts.get(name) ?? 0;
  const failed = count('fail') + count('cancelled');
  const skipped = count('skipped') > 0 ? `, ${count('skipped')} skipped` : '';
  const lines = [...counts].map(([name, value]) => `# ${name} ${value}`);
  return ['', ...lines, `${count('pass')} passed, ${failed} failed${skipped}`, ''].join('\n');
}
