/**
 * `npm test`: installs what is missing, then runs every test but those of test/long/, or those that
 * are named: `npm test -- test/ids.test.ts`. `npm run test:long` runs test/long/.
 *
 * Options for Node's test runner may be given too: `npm test -- --test-name-pattern=rotat`. What
 * the tests share (PostgreSQL, a token) is started once by test/support/global-setup.ts. Plain
 * JavaScript for Node 20.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { generateRunnable } from './generate.js';
import { nodeForSources, ROOT } from './node-modules.js';
import { run } from './run.js';
import { afterSetUp } from './setup.js';

const ALL = ['test/*.test.ts', 'test/!(long)/**/*.test.ts'];
const LONG = ['test/long/**/*.test.ts'];
const GLOBAL_SETUP = 'test/support/global-setup.ts';

/** Only what hangs takes so long, however busy the machine is. */
const TIMEOUT_MS = process.argv.includes('--long') ? 7_200_000 : 1_800_000;

const OPTIONS = [
  '--test',
  '--test-concurrency=2',
  `--test-timeout=${TIMEOUT_MS}`,
  '--test-reporter=./scripts/test-reporter.js',
  '--test-reporter-destination=stdout',
];

await afterSetUp(() => {
  generateRunnable();
  const given = process.argv.slice(2).filter((argument) => argument !== '--long');
  const all = process.argv.includes('--long') ? LONG : ALL;
  const files = given.filter((argument) => !argument.startsWith('-'));
  const options = given.filter((argument) => argument.startsWith('-'));
  const shared = existsSync(join(ROOT, GLOBAL_SETUP))
    ? [`--test-global-setup=${GLOBAL_SETUP}`]
    : [];
  return run(nodeForSources(), [
    ...OPTIONS,
    ...shared,
    ...options,
    ...(files.length > 0 ? files : all),
  ]);
});
