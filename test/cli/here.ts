/**
 * Runs the `keyward` command in the test's own process, as often as a test likes: a process for
 * each run costs ten times as much.
 *
 * For the time of a run, the process has the run's words, variables, folder and streams, so runs
 * come one after another. What only a process of its own has (signals, closed streams, how it ends)
 * is tested by `run.ts`; `test/packages/documents.test.ts` runs each command as it is installed.
 */
import { Readable, Writable } from 'node:stream';
import { runProgram } from '../../cli/src/program.ts';
import { type Outcome, type RunOptions, run } from './run.ts';

let last: Promise<unknown> = Promise.resolve();

/**
 * Runs `keyward` with these arguments, after the runs before; as a process where the options are
 * for Node, or want something of it while it runs.
 */
export function runHere(args: readonly string[], options: RunOptions): Promise<Outcome> {
  const { env, heard, until } = options;
  if (heard !== undefined || until !== undefined || env?.['NODE_OPTIONS'] !== undefined)
    return run(args, options);
  const outcome = last.then(() => runNow(args, options));
  last = outcome.catch(() => {});
  return outcome;
}

async function runNow(
  args: readonly string[],
  { cwd, env = {}, input = '' }: RunOptions,
): Promise<Outcome> {
  const [stdout, stderr] = [new Written(), new Written()];
  const before = { argv: process.argv, env: { ...process.env }, folder: process.cwd() };
  const streams = Object.getOwnPropertyDescriptors(process);
  process.argv = [...before.argv.slice(0, 2), ...args];
  process.chdir(cwd);
  setVariables({ PATH: before.env['PATH'], HOME: cwd, ...env });
  const stdin = Readable.from(input.length > 0 ? [Buffer.from(input)] : [], { objectMode: false });
  for (const [name, value] of Object.entries({ stdin, stdout, stderr }))
    Object.defineProperty(process, name, { configurable: true, get: () => value });
  try {
    await runProgram();
    const code = Number(process.exitCode ?? 0);
    return {
      code,
      bytes: stdout.bytes,
      stdout: String(stdout.bytes),
      stderr: String(stderr.bytes),
    };
  } finally {
    for (const name of ['stdin', 'stdout', 'stderr'] as const)
      Object.defineProperty(process, name, streams[name]);
    process.exitCode = undefined;
    setVariables(before.env);
    process.chdir(before.folder);
    process.argv = before.argv;
  }
}

/** Has the process have these variables and no other. */
function setVariables(variables: Readonly<Record<string, string | undefined>>): void {
  for (const name of Object.keys(process.env)) if (!(name in variables)) delete process.env[name];
  for (const [name, value] of Object.entries(variables))
    if (value !== undefined) process.env[name] = value;
}

/** A stream that keeps what is written to it. */
class Written extends Writable {
  readonly #parts: Buffer[] = [];

  get bytes(): Buffer {
    return Buffer.concat(this.#parts);
  }

  override _write(part: Buffer, _encoding: BufferEncoding, done: () => void): void {
    this.#parts.push(part);
    done();
  }
}
