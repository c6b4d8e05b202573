/** Runs the `keyward` command as its users do: a process of its own, its streams, its exit code. */
import { spawn } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { buffer, text } from 'node:stream/consumers';
import { COMPILED, programFrom } from '../support/compiled.ts';

const MAIN = programFrom('cli/src/main.ts');

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
  /** Is told what it has written to standard error so far. */
  readonly heard?: (stderr: string) => void;
}

/** Runs `keyward` with these arguments, and waits for its end. */
export async function run(
  args: readonly string[],
  { cwd, env = {}, input = '', until, heard }: RunOptions,
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
  let complained = '';
  if (heard !== undefined)
    child.stderr.on('data', (chunk: Buffer) => {
      complained += chunk;
      heard(complained);
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

/** A caller of a service, with PEMs. */
interface ProfileContent {
  readonly address: string;
  readonly ca?: string | Uint8Array | undefined;
  readonly cert?: string | Uint8Array | undefined;
  readonly key?: string | Uint8Array | undefined;
}

/** Gives the user of that home a profile for each of these; the first is the default. */
export function writeUsersProfiles(
  home: string,
  contents: Readonly<Record<string, ProfileContent>>,
): void {
  const folder = join(home, '.config', 'keyward');
  mkdirSync(folder, { recursive: true });
  const profiles = Object.entries(contents).map(
    ([name, { address, ca = '', cert = '', key = '' }]) => {
      const files = { caFile: `${name}.ca`, certFile: `${name}.cert`, keyFile: `${name}.key` };
      const write = (file: string, pem: string | Uint8Array) =>
        writeFileSync(join(folder, file), pem, { mode: 0o600 });
      write(files.caFile, ca);
      write(files.certFile, cert);
      write(files.keyFile, key);
      return [name, { address, ...files }];
    },
  );
  const [first] = Object.keys(contents);
  const text = JSON.stringify({ default: first, profiles: Object.fromEntries(profiles) });
  writeFileSync(join(folder, 'profiles.json'), text, { mode: 0o600 });
}
