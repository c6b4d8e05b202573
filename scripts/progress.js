/**
 * Long steps that show they are alive: seconds counted on a terminal, elsewhere a line every ten
 * seconds; what the step itself says goes to a log file, of which the end is shown when it fails.
 *
 * Plain JavaScript for Node 20. Knows nothing of what the steps do.
 */
import { spawn } from 'node:child_process';
import { appendFileSync, createWriteStream } from 'node:fs';

const LINE_EVERY_MS = 10_000;
const TAIL_LINES = 25;

/** A failure that is explained in full by its message: shown without a stack. */
export class SetUpError extends Error {
  name = 'SetUpError';
}

/** @param {string} line */
export function say(line) {
  process.stdout.write(`${line}\n`);
}

/**
 * Runs `work`, showing that it is alive.
 *
 * @template T
 * @param {string} title
 * @param {() => Promise<T>} work
 * @returns {Promise<T>}
 */
export async function step(title, work) {
  const started = performance.now();
  const seconds = () => Math.round((performance.now() - started) / 1000);
  const terminal = process.stdout.isTTY === true;
  if (!terminal) say(`${title} …`);
  const timer = setInterval(
    () =>
      terminal ? process.stdout.write(`\r${title} … ${seconds()} s `) : say(`  … ${seconds()} s`),
    terminal ? 500 : LINE_EVERY_MS,
  );
  try {
    const result = await work();
    say(`${terminal ? '\r' : ''}${title}: done in ${seconds()} s`);
    return result;
  } catch (error) {
    if (terminal) say('');
    throw error;
  } finally {
    clearInterval(timer);
  }
}

/**
 * Runs a command to its end, its output going to `log`.
 *
 * @param {string} command
 * @param {readonly string[]} args
 * @param {{ log: string, cwd?: string, env?: NodeJS.ProcessEnv, keepOpen?: number }} options
 * `keepOpen`: a descriptor
 *   that the command inherits, so that a lock stays held as long as it runs
 * @returns {Promise<{ ok: boolean, tail: string }>} the end of its output, for a message about a
 * failure
 */
export function runLogged(command, args, { log, cwd, env, keepOpen }) {
  appendFileSync(log, `\n$ ${command} ${args.join(' ')}\n`, { mode: 0o600 });
  const file = createWriteStream(log, { flags: 'a', mode: 0o600 });
  return new Promise((resolve) => {
    let tail = '';
    /** @param {Buffer} chunk */
    const take = (chunk) => {
      file.write(chunk);
      tail = `${tail}${chunk}`.split('\n').slice(-TAIL_LINES).join('\n');
    };
    const child = spawn(command, args, {
      cwd,
      env,
      stdio: ['ignore', 'pipe', 'pipe', ...(keepOpen === undefined ? [] : [keepOpen])],
    });
    child.stdout?.on('data', take);
    child.stderr?.on('data', take);
    child.on('error', (error) => file.end(() => resolve({ ok: false, tail: error.message })));
    child.on('close', (code) => file.end(() => resolve({ ok: code === 0, tail: tail.trim() })));
  });
}
