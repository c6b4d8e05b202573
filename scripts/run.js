/**
 * Runs the programs that our commands consist of, in the foreground.
 *
 * Signals that reach us go on to the program, and its exit code becomes ours. Plain JavaScript for
 * Node 20.
 */
import { spawn } from 'node:child_process';
import { ROOT } from './node-modules.js';

const PARENT_EVERY_MS = 500;

/** @type {readonly NodeJS.Signals[]} */
const FORWARDED = ['SIGINT', 'SIGTERM', 'SIGHUP'];

/**
 * Runs a program in the clone's folder, on our terminal, to its end.
 *
 * @param {string} command
 * @param {readonly string[]} args
 * @param {{ env?: Record<string, string> }} [options] variables beside our own
 * @returns {Promise<number>} its exit code; 128 and more when a signal ended it, as shells count
 */
export function run(command, args, { env = {} } = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      cwd: ROOT,
      stdio: 'inherit',
      env: { ...process.env, ...env },
    });
    /** @param {NodeJS.Signals} signal */
    const forward = (signal) => child.kill(signal);
    for (const signal of FORWARDED) process.on(signal, forward);
    const watch = whenNpmIsGone(() => child.kill('SIGTERM'));
    child.on('error', reject);
    child.on('exit', (code, signal) => {
      for (const forwarded of FORWARDED) process.off(forwarded, forward);
      clearInterval(watch);
      resolve(code ?? (signal === 'SIGINT' ? 130 : 143));
    });
  });
}

/**
 * A signal to npm ends npm and the shell between it and us, and never gets here: then our parent
 * changes.
 *
 * @param {() => void} act
 */
function whenNpmIsGone(act) {
  if (process.env['npm_lifecycle_event'] === undefined) return undefined;
  const parent = process.ppid;
  const timer = setInterval(() => {
    if (process.ppid === parent) return;
    clearInterval(timer);
    act();
  }, PARENT_EVERY_MS);
  return timer;
}
