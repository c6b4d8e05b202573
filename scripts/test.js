/**
 * `npm test`: installs what is missing, then runs every test but those of test/long/, or those that
 * are named: `npm test -- test/words.test.ts`. `npm run test:long` runs test/long/, or of it what
 * is named: `npm run test:long -- histories --seed 7`.
 *
 * A file of which a test fails in the whole run, or in a run of several of test/long/, is run once
 * more alone, if they are few: the machine may have been too busy for it. What passes then counts
 * as passed, and is named.
 *
 * Where the system has a PostgreSQL of its own (Debian's package `postgresql`), the whole run ends
 * with the database's tests on that one: it is another release, and has what ours lacks, as a
 * compiler of plans.
 *
 * Options for Node's test runner may be given too: `npm test -- --test-name-pattern=rotat`; with
 * `--slowest` it is told at the end what took longest. What the tests share (PostgreSQL, a token)
 * is started once by test/support/global-setup.ts. Plain JavaScript for Node 20.
 */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { generateRunnable } from './generate.js';
import { nodeForSources, ROOT } from './node-modules.js';
import { say } from './progress.js';
import { run } from './run.js';
import { afterSetUp } from './setup.js';

const ALL = ['test/*.test.ts', 'test/!(long)/**/*.test.ts'];
const LONG = ['test/long/**/*.test.ts'];
const OF_DATABASE = ['test/store/*.test.ts'];
/** More would want more connections than the PostgreSQL that they share allows. */
const MOST_FILES = 9;
/** So many files are run again at the most. */
const MOST_AGAIN = 5;
const GLOBAL_SETUP = 'test/support/global-setup.ts';

/** Only what hangs takes so long, however busy the machine is. */
const TIMEOUT_MS = process.argv.includes('--long') ? 7_200_000 : 1_800_000;

/**
 * Twice as many as there are cores, since half of what a test does is to wait. Three times as many
 * took as long, and twice the load.
 */
const FILES_AT_ONCE = Math.min(2 * availableParallelism(), MOST_FILES);

const OPTIONS = [
  '--test',
  `--test-concurrency=${FILES_AT_ONCE}`,
  `--test-timeout=${TIMEOUT_MS}`,
  '--test-reporter=./scripts/test-reporter.js',
  '--test-reporter-destination=stdout',
];

const isLong = process.argv.includes('--long');
const given = process.argv.slice(2).filter((argument) => argument !== '--long');
const seedAt = given.indexOf('--seed');
if (seedAt >= 0) process.env['KEYWARD_TEST_SEED'] = given.splice(seedAt, 2)[1] ?? '';

/** Where Debian keeps its PostgreSQLs, a folder for each release. */
const SYSTEM_POSTGRES = '/usr/lib/postgresql';

/** The folder of the system's newest PostgreSQL; undefined where it has none. */
function systemPostgres() {
  if (!existsSync(SYSTEM_POSTGRES)) return undefined;
  return readdirSync(SYSTEM_POSTGRES)
    .filter((release) => existsSync(join(SYSTEM_POSTGRES, release, 'bin', 'initdb')))
    .sort((a, b) => Number(a) - Number(b))
    .map((release) => join(SYSTEM_POSTGRES, release))
    .at(-1);
}

/**
 * @param {readonly string[]} files
 * @param {Record<string, string>} [env]
 * @param {readonly string[]} [more] options in the place of those that are the same
 */
async function runTests(files, env = {}, more = []) {
  const options = given.filter((argument) => /^-(?!-slowest$)/.test(argument));
  const shared = existsSync(join(ROOT, GLOBAL_SETUP))
    ? [`--test-global-setup=${GLOBAL_SETUP}`]
    : [];
  const all = [...OPTIONS, ...more, ...shared, ...options, ...files];
  if (!given.includes('--slowest')) return run(nodeForSources(), all, { env });
  return inDirectory((directory) =>
    run(nodeForSources(), ['--import=./scripts/test-cpu.js', ...all], {
      env: { ...env, KEYWARD_TEST_SLOWEST: join(directory, 'cpu') },
    }),
  );
}

/**
 * Does the work with a folder that is there for as long.
 *
 * @param {(directory: string) => Promise<number>} work
 */
async function inDirectory(work) {
  const directory = mkdtempSync(join(tmpdir(), 'keyward-test-'));
  try {
    return await work(directory);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/**
 * These files, and what failed of them once more; as the whole run, those of the database before
 * that on the system's PostgreSQL.
 *
 * @param {readonly string[]} files
 */
function runMany(files) {
  return inDirectory(async (directory) => {
    const counts = { KEYWARD_TEST_COUNTS: join(directory, 'counts.json') };
    const first = await runTests(files, counts);
    if (first >= 128) return first;
    const second = files === ALL ? await runOnSystemPostgres(counts) : 0;
    if (second !== 0) return second;
    return first === 0 ? 0 : await runAgain(counts, files === ALL ? everyFile() : files);
  });
}

/** The files that {@link ALL} stands for. */
function everyFile() {
  return readdirSync(join(ROOT, 'test'), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.test.ts') && !name.startsWith('long/'))
    .map((name) => join('test', name));
}

/** @param {Record<string, string>} counts */
async function runOnSystemPostgres(counts) {
  const installation = systemPostgres();
  if (installation === undefined) {
    say(`the database's tests on the system's PostgreSQL are skipped: ${SYSTEM_POSTGRES} has none`);
    return 0;
  }
  say(`once more, the database's tests on ${installation}; the counts are of both`);
  return runTests(OF_DATABASE, { ...counts, KEYWARD_TEST_POSTGRES: installation });
}

/**
 * The files of which a test failed, each alone; not where so many failed that no busy machine
 * is the reason.
 *
 * @param {Record<'KEYWARD_TEST_COUNTS', string>} counts
 * @param {readonly string[]} run the files that were run
 */
async function runAgain(counts, run) {
  const { failed } = JSON.parse(readFileSync(counts.KEYWARD_TEST_COUNTS, 'utf8'));
  const places = [...new Set(/** @type {string[]} */ (failed))];
  const found = places.map((place) => filesWith(place, run));
  const files = [...new Set(found.flat())];
  const isKnown = found.every((each) => each.length > 0);
  if (files.length === 0 || files.length > MOST_AGAIN || !isKnown) return 1;
  say(`once more, alone: ${files.join(', ')}`);
  const env = { ...counts, KEYWARD_TEST_AGAIN: files.join(',') };
  return runTests(files, env, ['--test-concurrency=1']);
}

/**
 * The files of a run that have the tests of this one: itself, or else those that import it.
 *
 * @param {string} place
 * @param {readonly string[]} run
 */
function filesWith(place, run) {
  if (run.includes(place)) return [place];
  return run.filter((file) =>
    readFileSync(join(ROOT, file), 'utf8').includes(`/${basename(place)}'`),
  );
}

await afterSetUp(() => {
  generateRunnable();
  const files = given
    .filter((argument) => !argument.startsWith('-'))
    .map((name) => (isLong && !name.includes('/') ? `test/long/${name}.test.ts` : name));
  if (files.length === 0) return isLong ? runTests(LONG) : runMany(ALL);
  return isLong && files.length > 1 ? runMany(files) : runTests(files);
});
