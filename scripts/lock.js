/**
 * Locks between processes of one clone: one holder at a time, given back by the kernel however the
 * holder dies.
 *
 * A lock is flock(2) on a file, taken by util-linux' `flock` on our own open file, so there is no
 * stale lock to judge: the file's text only tells others who holds it. A child that gets the
 * descriptor keeps the lock held should we be killed before it is done. Plain JavaScript for Node
 * 20. Knows nothing of what is done under the lock.
 */
import { spawn } from 'node:child_process';
import { closeSync, ftruncateSync, mkdirSync, openSync, readFileSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';

const SAY_WHO_EVERY_MS = 10_000;

/**
 * A lock that is held.
 *
 * @typedef {{ readonly descriptor: number, release(): void }} Lock
 */

/**
 * Takes the lock if nobody holds it.
 *
 * @param {string} file
 * @param {string} purpose what the holder does, for whoever waits: "installs packages"
 * @returns {Promise<Lock | undefined>} nothing when another process holds it
 */
export async function tryLock(file, purpose) {
  mkdirSync(dirname(file), { recursive: true, mode: 0o700 });
  const descriptor = openSync(file, 'a+', 0o600);
  if (!(await flock(descriptor, ['--exclusive', '--nonblock']))) {
    closeSync(descriptor);
    return undefined;
  }
  return held(descriptor, purpose);
}

/**
 * Takes the lock, waiting for whoever holds it, and saying so.
 *
 * @param {string} file
 * @param {string} purpose
 * @param {(line: string) => void} say
 * @returns {Promise<Lock>}
 */
export async function takeLock(file, purpose, say) {
  const atOnce = await tryLock(file, purpose);
  if (atOnce !== undefined) return atOnce;
  say(`Waiting for ${lockHolder(file)}.`);
  const timer = setInterval(() => say(`Still waiting for ${lockHolder(file)}.`), SAY_WHO_EVERY_MS);
  const descriptor = openSync(file, 'a+', 0o600);
  try {
    await flock(descriptor, ['--exclusive']);
  } finally {
    clearInterval(timer);
  }
  return held(descriptor, purpose);
}

/**
 * Who holds the lock, or held it last, in words.
 *
 * @param {string} file
 */
export function lockHolder(file) {
  try {
    return readFileSync(file, 'utf8').trim() || 'another process';
  } catch {
    return 'another process';
  }
}

/**
 * @param {number} descriptor
 * @param {string} purpose
 * @returns {Lock}
 */
function held(descriptor, purpose) {
  ftruncateSync(descriptor);
  writeSync(
    descriptor,
    `process ${process.pid}, which ${purpose} since ${new Date().toISOString()}\n`,
  );
  return { descriptor, release: () => closeSync(descriptor) };
}

/**
 * @param {number} descriptor
 * @param {string[]} options
 * @returns {Promise<boolean>} false when another process holds it
 */
function flock(descriptor, options) {
  return new Promise((resolve, reject) => {
    const child = spawn('flock', [...options, '3'], {
      stdio: ['ignore', 'ignore', 'inherit', descriptor],
    });
    child.on('error', (error) =>
      reject(
        new Error('cannot lock: the command flock (of util-linux) is required', { cause: error }),
      ),
    );
    child.on('exit', (code) => {
      if (code === 0 || code === 1) resolve(code === 0);
      else reject(new Error(`cannot lock: flock ended with code ${code}`));
    });
  });
}
