/** Runs the `keyward` command as its users do: a process of its own, its streams, its exit code. */
import { spawn } from 'node:child_process';
import { buffer, text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { COMPILED } from '../support/compiled.ts';

const MAIN = fileURLToPath(new URL('../../cli/src/main.ts', import.meta.url));

/** What a run of the command left. */
export interface Outcome {
  readonly code: number | null;
  readonly bytes: Buffer;
  readonly stdout: string;
  readonly stderr: string;
}

/**
 * How to run it; no variable of the environment is passed on but PATH and where Node keeps what it
 * compiles, and its home is where it is run.
 */
export interface RunOptions {
  readonly cwd: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly input?: string | Uint8Array;
  /** Ends it with SIGTERM as soon as this holds of what it has written. */
  readonly until?: (stdout: string) => boolean;
}

/** Runs `keyward` with these arguments, and waits for its end. */
export async function run(
  args: readonly string[],
  { cwd, env = {}, input = '', until }: RunOptions,
): Promise<Outcome> {
  const child = spawn(process.execPath, [MAIN, ...args], {
    cwd,
    env: { PATH: process.env['PATH'], HOME: cwd, ...COMPILED, ...env },
    stdio: 'pipe',
  });
  // The command may end before it has read all.
  child.stdin.on('error', () => {});
  child.stdin.end(input);
  let written = '';
  if (until !== undefined)
    child.stdout.on('data', (chunk: Buffer) => {
      written += chunk;
      if (until(written)) child.kill();
    });
  const ended = new Promise<number | null>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', resolve);
  });
  const [bytes, stderr, code] = await Promise.all([
    buffer(child.stdout),
    text(child.stderr),
    ended,
  ]);
  return { code, bytes, stdout: bytes.toString(), stderr };
}
