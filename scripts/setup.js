/**
 * Set-up: makes sure that everything is installed that the service, its tests and its checks need.
 *
 * Looks first, which takes milliseconds when nothing is missing; installs only under a lock, so
 * that commands started together install once. Runs before node_modules exists: plain JavaScript
 * for Node 20 with no dependencies. Writes nothing outside the clone but the system's packages and
 * npm's cache.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { takeLock } from './lock.js';
import { installNodeModules, ROOT, whyInstall } from './node-modules.js';
import { SetUpError, say } from './progress.js';
import { installSystemPackages, missingFromSystem } from './system-packages.js';

/** Everything that is made inside the clone and is not node_modules. */
export const STATE_DIRECTORY = join(ROOT, '.keyward');

/**
 * Makes sure that everything is installed; throws a {@link SetUpError} that says what is missing
 * and what to do.
 */
export async function setUp() {
  mkdirSync(STATE_DIRECTORY, { recursive: true, mode: 0o700 });
  if (isComplete()) return;
  const lock = await takeLock(
    join(STATE_DIRECTORY, 'set-up.lock'),
    'installs what is missing',
    say,
  );
  try {
    const options = { log: join(STATE_DIRECTORY, 'set-up.log'), keepOpen: lock.descriptor };
    await installSystemPackages(whyInstall() !== undefined, options);
    await installNodeModules(options);
  } finally {
    lock.release();
  }
}

/**
 * Sets up, then does `work`, as {@link explained}.
 *
 * @param {() => Promise<number>} work
 */
export function afterSetUp(work) {
  return explained(async () => {
    await setUp();
    return work();
  });
}

/**
 * Does `work`; a failure that explains itself is shown without a stack. Sets the process' exit
 * code.
 *
 * @param {() => Promise<number>} work
 */
export async function explained(work) {
  try {
    process.exitCode = await work();
  } catch (error) {
    const unexpected = error instanceof Error ? error.stack : error;
    process.stderr.write(`${error instanceof SetUpError ? error.message : unexpected}\n`);
    process.exitCode = 1;
  }
}

function isComplete() {
  return missingFromSystem(false).length === 0 && whyInstall() === undefined;
}
