/**
 * The tests' reporter: Node's `spec` for every test, and the counts as the very last lines, also
 * behind the details of what failed.
 *
 * Runs inside Node's test runner. Owns where the counts stand, and what is known of the runs before
 * that are counted with this one: where KEYWARD_TEST_COUNTS names a file, they are added up there,
 * beside the test files that failed. A run with KEYWARD_TEST_AGAIN is of those files once more,
 * each alone: what passes now counts as passed, and its file is named. With KEYWARD_TEST_SLOWEST it
 * tells before the counts what took longest.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { relative } from 'node:path';
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
  /** @type {Set<string>} */
  const failed = new Set();
  const slowest = new Slowest();
  const withoutCounts = new Transform({
    objectMode: true,
    transform(event, _encoding, done) {
      slowest.add(event);
      if (event.type === 'test:fail' && event.data.file !== undefined)
        failed.add(relative(process.cwd(), event.data.file));
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
  const notes = process.env['KEYWARD_TEST_SLOWEST'];
  if (notes !== undefined) yield `\n${slowest.report(notes)}`;
  const again = process.env['KEYWARD_TEST_AGAIN']?.split(',') ?? [];
  addEarlier(counts, { failed: [...failed], isAgain: again.length > 0 });
  const passedAlone = failed.size > 0 ? [] : again;
  if (passedAlone.length > 0)
    yield `\nfailed beside other tests, and passed alone: ${passedAlone.join(', ')}\n`;
  yield closingLines(counts);
}

/**
 * Adds what the runs before have counted. Of files that are run again, what failed before is
 * counted as it is now.
 *
 * @param {Map<string, number>} counts
 * @param {{ failed: readonly string[], isAgain: boolean }} run
 */
function addEarlier(counts, { failed, isAgain }) {
  const file = process.env['KEYWARD_TEST_COUNTS'];
  if (file === undefined) return;
  /** @type {{ counts: Record<string, number>, failed: string[] }} */
  const earlier = existsSync(file)
    ? JSON.parse(readFileSync(file, 'utf8'))
    : { counts: {}, failed: [] };
  const count = (/** @type {string} */ name) => earlier.counts[name] ?? 0;
  if (isAgain) {
    const failing = (counts.get('fail') ?? 0) + (counts.get('cancelled') ?? 0);
    counts.clear();
    for (const [name, value] of Object.entries(earlier.counts)) counts.set(name, value);
    counts.set('pass', count('tests') - count('skipped') - count('todo') - failing);
    counts.set('fail', failing);
    counts.set('cancelled', 0);
  } else
    for (const name of Object.keys(earlier.counts))
      counts.set(name, count(name) + (counts.get(name) ?? 0));
  const all = isAgain ? failed : [...earlier.failed, ...failed];
  writeFileSync(file, JSON.stringify({ counts: Object.fromEntries(counts), failed: all }));
}

/** @param {Map<string, number>} counts */
function closingLines(counts) {
  const count = (/** @type {string} */ name) => counts.get(name) ?? 0;
  const failed = count('fail') + count('cancelled');
  const skipped = count('skipped') > 0 ? `, ${count('skipped')} skipped` : '';
  const lines = [...counts].map(([name, value]) => `# ${name} ${value}`);
  return ['', ...lines, `${count('pass')} passed, ${failed} failed${skipped}`, ''].join('\n');
}
