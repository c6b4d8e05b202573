/**
 * The log when what reads it fails: a full disk, a reader that is gone, a reader that does not
 * read.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, constants, openSync, readFileSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { connect, type KeywardClient } from 'keyward-client';
import { freePort } from '../../dev/postgres.ts';
import { programFrom } from '../support/compiled.ts';
import {
  type Environment,
  eventually,
  type LogLine,
  newEnvironment,
  setMode,
} from '../support/kit.ts';
import { TESTER } from '../support/tester.ts';

const MAIN = programFrom('src/main.ts');

let environment: Environment;

/** Calls at once, each of which makes a line. */
const AT_ONCE = 10;

/** The service with its stdout going there; resolves once it serves. */
class Logging implements Disposable {
  readonly child: ChildProcess;
  readonly ended: Promise<number | string | null>;
  readonly #client: KeywardClient;

  private constructor(port: number, stdout: 'pipe' | number, limits: string) {
    const address = `127.0.0.1:${port}`;
    const { certPem: cert, keyPem: key } = environment.ca.issue({
      subject: 'tester',
      usage: 'client',
      uris: [TESTER],
    });
    this.#client = connect({ address, ca: environment.ca.certPem, cert, key });
    const command = [process.execPath, MAIN, 'serve'];
    this.child = spawn('/bin/sh', ['-c', `${limits}exec "$0" "$@"`, ...command], {
      env: { ...environment.variables, KEYWARD_LISTEN: address },
      stdio: ['ignore', stdout, 'inherit'],
    });
    this.ended = new Promise((resolve) =>
      this.child.once('exit', (code, signal) => resolve(signal ?? code)),
    );
  }

  static async start(stdout: 'pipe' | number, limits = ''): Promise<Logging> {
    const logging = new Logging(await freePort(), stdout, limits);
    await logging.serves();
    return logging;
  }

  async serves(): Promise<void> {
    await eventually(() => this.#client.getCaller());
  }

  /** Has the service write so many lines, a multiple of {@link AT_ONCE}, each of a call. */
  async writes(lines: number): Promise<void> {
    for (let line = 0; line < lines; line += AT_ONCE)
      await Promise.all(Array.from({ length: AT_ONCE }, () => this.#client.listTenants()));
  }

  /** SIGTERM, and its end. */
  async end(): Promise<number | string | null> {
    this.child.kill('SIGTERM');
    return this.ended;
  }

  [Symbol.dispose](): void {
    this.#client.close();
    this.child.kill('SIGKILL');
  }
}

describe('the log', () => {
  before(async () => {
    environment = await newEnvironment();
    await setMode(environment, 'production');
  });
  after(() => environment?.[Symbol.asyncDispose]());

  test('on a full disk costs the service neither its life nor its end in order', async () => {
    const full = openSync('/dev/full', 'w');
    try {
      using logging = await Logging.start(full);
      await logging.serves();
      assert.equal(await logging.end(), 0);
    } finally {
      closeSync(full);
    }
  });

  test('in a file that cannot grow loses whole lines, no calls, and is told how many were lost', async () => {
    const path = join(environment.directory, 'log');
    const file = openSync(path, 'a');
    try {
      // To a process the limit is what a full file system is, but without a file system of its own.
      using logging = await Logging.start(file, 'ulimit -f 128; ');
      await logging.writes(400);
      await logging.serves();
      const before = linesOf(path);
      truncateSync(path);
      const after = await eventually(async () => {
        await logging.writes(AT_ONCE);
        const lines = linesOf(path);
        assert.ok(lines.some(({ alert }) => alert === 'log-lines-lost'));
        return lines;
      });
      const calls = (lines: readonly LogLine[]) => lines.filter(isWritten).length;
      assert.ok(calls(before) > 50 && calls(before) < 400, `${calls(before)} of 400 calls`);
      const lost = after.find(({ alert }) => alert === 'log-lines-lost')?.['lines'];
      assert.ok(Number(lost) >= 400 - calls(before), `${lost} lines are counted as lost`);
      assert.equal(await logging.end(), 0);
    } finally {
      closeSync(file);
    }
  });

  test('of which nobody reads any more costs the service neither its life nor its end in order', async () => {
    using logging = await Logging.start('pipe');
    logging.child.stdout?.destroy();
    await logging.serves();
    assert.equal(await logging.end(), 0);
  });

  test('of which the reader does not read costs the service nothing, and is written once it does', async () => {
    using logging = await Logging.start('pipe');
    // More than a pipe and the stream in this process hold.
    await logging.writes(400);
    await logging.serves();
    let text = '';
    logging.child.stdout?.on('data', (chunk: Buffer) => {
      text += chunk.toString();
    });
    assert.equal(await logging.end(), 0);
    const lines = text.trim().split('\n');
    assert.equal(lines.filter((line) => isWritten(JSON.parse(line))).length, 400);
  });

  test('of which the reader never reads holds up no end', async () => {
    using logging = await Logging.start('pipe');
    await logging.writes(400);
    assert.equal(await logging.end(), 0);
  });

  test('holds up no end either when another process has made the same pipe block again', async () => {
    const path = join(environment.directory, 'pipe');
    execFileSync('mkfifo', [path]);
    const pipe = openSync(path, constants.O_RDWR);
    try {
      // When it ends, Node puts back what it found: a pipe that blocks.
      const other = spawn(process.execPath, ['-e', 'process.stdin.resume()'], {
        stdio: ['pipe', pipe, 'inherit'],
      });
      using logging = await Logging.start(pipe);
      other.stdin?.end();
      await once(other, 'exit');
      await logging.writes(400);
      assert.equal(await logging.end(), 0);
    } finally {
      closeSync(pipe);
    }
  });
});

/** Whether it is one that {@link Logging.writes} had it write. */
const isWritten = ({ msg, method }: LogLine) =>
  msg === 'call' && method === 'keyward.v1.AdminService/ListTenants';

/** The whole lines of a log; each must be JSON. */
function linesOf(path: string): LogLine[] {
  const lines = readFileSync(path, 'utf8').split('\n').slice(0, -1);
  return lines.filter((line) => line !== '').map((line) => JSON.parse(line) as LogLine);
}
